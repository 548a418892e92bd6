"""Evaluation protocols: frozen, named answers to every question that moves a Frechet distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tractbench.errors import ConfigError, nearest_name


class Protocol(BaseModel):
    """How samples become a score.

    Attributes:
        name: what ``--protocol`` takes.
        resize: how images reach the extractor's size; none leaves them as they are.
        quantise: how floats become grey levels.
        reference: which images the reference statistics are made of.
        reported: which number over the sampling seeds a table quotes.
        metrics: what is computed, the figure a table quotes first.
        description: the end of a caption's first sentence.
        floor: what the comparison row of real data is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    resize: Literal["none"]
    quantise: Literal["round", "none"]
    reference: Literal["train", "exact"]
    reported: Literal["mean"]
    metrics: tuple[str, ...]
    description: str
    floor: str


PROTOCOLS: Mapping[str, Protocol] = {
    "raw": Protocol(
        name="raw",
        resize="none",
        quantise="round",
        reference="train",
        reported="mean",
        metrics=("fd_pixel", "fd_feature", "fd_pixel_held_out", "fd_feature_held_out", "nn_ratio"),
        description="rounded to the data set's grey levels, against its training images and, apart, its held-out ones.",
        floor="real images: held out against training",
    ),
    "exact": Protocol(
        name="exact",
        resize="none",
        quantise="none",
        reference="exact",
        reported="mean",
        metrics=("fd_exact", "sliced_w2"),
        description="points as they are, against the true distribution.",
        floor="as many true points",
    ),
}


def load_protocol(name: str) -> Protocol:
    """Return a protocol by name; a ConfigError names the nearest one."""
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}{nearest_name(name, PROTOCOLS)}")
    return PROTOCOLS[name]
