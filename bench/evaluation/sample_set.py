"""What a set of samples is, whoever made it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from tractbench.errors import DamagedFileError

BATCH = 500
"""Images that are read together."""

CHANNELS = {"L": 1, "RGB": 3}
"""Channels of the modes that samples may have, as Pillow calls them."""

UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What is raised where a file of samples is damaged."""


@dataclass(frozen=True)
class SampleSet:
    """Samples in a fixed order; a sampler's own can be one too.

    Attributes:
        source: where they come from.
        count: how many there are.
        shape: (C, H, W).
        floats: whether they are floats in [-1, 1], to be quantised by the protocol, and not grey levels.
        read: yields them in batches ``[B, C, H, W]``, uint8 or floats, from the first one on at each call.
    """

    source: str
    count: int
    shape: tuple[int, int, int]
    floats: bool
    read: Callable[[], Iterator[Tensor]]


def format_shape(shape: tuple[int, ...]) -> str:
    """Write a shape as users say it: 32x32 RGB."""
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def damaged(where: object, error: Exception) -> DamagedFileError:
    """Return the error of a file that cannot be read, in one line."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return DamagedFileError(f"{where} cannot be read ({reason}); make or fetch it again")
