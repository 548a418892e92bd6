"""What a set of samples is, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tractbench.errors import DamagedFileError
from tractbench.io.archives import reason

BATCH = 500
"""Images that are read together."""

CHANNELS = {"L": 1, "RGB": 3}
"""Channels of the modes that samples may have, as Pillow calls them."""

Layout = Literal["nchw", "nhwc"]
Range = Literal["signed", "unit", "levels"]


@dataclass(frozen=True)
class Reading:
    """What a user says where a file can be read in more than one way.

    Attributes:
        layout: order of an array's axes.
        key: which array of a file with several.
        values: what numbers stand for: ``signed`` floats in [-1, 1], ``unit`` floats in [0, 1], or grey ``levels``.
        points: dimension of the points ``[N, D]`` that are awaited instead of images; None for images.
    """

    layout: Layout | None = None
    key: str | None = None
    values: Range | None = None
    points: int | None = None


@dataclass(frozen=True)
class SampleSet:
    """Samples in a fixed order; a sampler's own can be one too.

    Attributes:
        source: where they come from.
        count: how many there are.
        shape: (C, H, W).
        floats: whether they are floats in [-1, 1], to be quantised by the protocol, and not grey levels.
        read: yields them in batches ``[B, C, H, W]``, uint8 or floats, from the first one on at each call.
        notes: what of the files was chosen, passed over, converted or assumed.
    """

    source: str
    count: int
    shape: tuple[int, int, int]
    floats: bool
    read: Callable[[], Iterator[Tensor]]
    notes: tuple[str, ...] = ()


def format_shape(shape: tuple[int, ...]) -> str:
    """Write a shape as users say it: 32x32 RGB."""
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def damaged(where: object, error: Exception) -> DamagedFileError:
    """Return the error of a file that cannot be read, in one line."""
    return DamagedFileError(f"{where} cannot be read ({reason(error)}); make or fetch it again")
