"""Evaluation protocols: frozen, named answers to every question that moves a Frechet distance."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError, nearest_name
from tractbench.plugins import normal

Resize = Literal["none", "tensorflow", "torch", "clean"]
"""How images reach the extractor's size, see :mod:`tractbench.evaluation.extractors.resize`."""

WORDING = {"description", "floor"}
"""What of a protocol changes no score."""

INCEPTION_METRICS = ("fid", "fid_infinity", "kid", "precision", "recall", "inception_score")


class Protocol(BaseModel):
    """How samples become a score.

    Attributes:
        name: what ``--protocol`` takes.
        resize: how images reach the extractor's size; none leaves them as they are, for an extractor of their own.
        quantise: how floats become grey levels.
        reference: which images the reference statistics are made of.
        reported: which number over the sampling seeds a table quotes.
        metrics: what is computed, the figure a table quotes first.
        description: the end of a caption's first sentence.
        floor: what the comparison row of real data is.
        samples: images of one sampling seed, None where the tier decides.
        seeds: number of sampling seeds, None where the tier decides.
        spaces: feature extractors besides the data set's own, as ``raw+NAME`` asks for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    resize: Resize
    quantise: Literal["round", "truncate", "none"]
    reference: Literal["train", "exact"]
    reported: Literal["mean", "minimum", "single"]
    metrics: tuple[str, ...]
    description: str
    floor: str
    samples: int | None = None
    seeds: int | None = None
    spaces: tuple[str, ...] = ()

    @property
    def inception(self) -> bool:
        """Whether the features are the Inception network's."""
        return self.resize != "none"

    @property
    def key(self) -> dict[str, object]:
        """What of the protocol decides a score, as JSON values."""
        values: dict[str, object] = self.model_dump(mode="json", exclude=WORDING, exclude_defaults=True)
        return values

    def quantised(self, images: Tensor, dataset: Dataset) -> Tensor:
        """Turn images in [-1, 1] into grey levels, uint8, as the protocol does it."""
        if images.element_size() < 4:  # half precisions have no steps as fine as grey levels
            images = images.float()
        if self.quantise != "truncate":
            return dataset.quantise(images)
        top = dataset.levels - 1
        return ((images + 1) * (top / 2)).clamp(0, top).to(torch.uint8)

    def quoted(self, per_seed: Sequence[float]) -> float:
        """Return the number that a table quotes of the scores of all sampling seeds.

        Raises:
            ConfigError: the protocol knows one seed only and there are several.
        """
        if self.reported == "single" and len(per_seed) != 1:
            raise ConfigError(
                f"protocol '{self.name}' reports a single set of samples, not {len(per_seed)}; give one sampling seed"
            )
        return min(per_seed) if self.reported == "minimum" else statistics.fmean(per_seed)


def _inception(name: str, **settings: object) -> Protocol:
    fields = {"reference": "train", "metrics": INCEPTION_METRICS, "samples": 50_000, "floor": "real images"}
    return Protocol.model_validate({"name": name, **fields, **settings})


PROTOCOLS: Mapping[str, Protocol] = {
    "tract": _inception(
        "tract",
        resize="torch",
        quantise="round",
        reported="mean",
        seeds=5,
        description="rounded to 8 bits, bilinear half-pixel resize, Inception of 2015, against the training images; "
        "mean over five disjoint sampling seeds.",
    ),
    "edm": _inception(
        "edm",
        resize="tensorflow",
        quantise="round",
        reported="minimum",
        seeds=3,
        description="rounded to 8 bits, TensorFlow 1 bilinear resize, Inception of 2015, against the training images; "
        "minimum over three disjoint sampling seeds.",
    ),
    "adm": _inception(
        "adm",
        resize="tensorflow",
        quantise="truncate",
        reported="single",
        seeds=1,
        description="truncated to 8 bits, TensorFlow 1 bilinear resize, Inception of 2015, against the training "
        "images; one sampling seed.",
    ),
    "clean": _inception(
        "clean",
        resize="clean",
        quantise="round",
        reported="mean",
        seeds=10,
        description="rounded to 8 bits, bicubic antialiased resize in floats, Inception of 2015, against the training "
        "images; mean over ten disjoint sampling seeds.",
    ),
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
    """Return a protocol by name, ``raw+NAME`` for ``raw`` with the distances in another extractor's features.

    The extractor itself is looked for when something is scored: a report needs none.

    Raises:
        ConfigError: there is none of that name, and the message has the nearest one, or it takes no extractors.
    """
    name, *spaces = name.split("+")
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}{nearest_name(name, PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if not spaces:
        return protocol
    if protocol.inception or protocol.reference != "train":
        raise ConfigError(f"protocol '{name}' has its own features; add extractors to 'raw': raw+{'+'.join(spaces)}")
    spaces = list(dict.fromkeys(map(normal, spaces)))
    metrics = [f"fd_{space}{of}" for space in spaces for of in ("", "_held_out")]
    if "" in spaces or set(metrics) & set(protocol.metrics):
        asked = "+".join((name, *spaces))
        raise ConfigError(
            f"protocol {asked!r}: name extractors that '{name}' has not; see 'tractbench list extractors'"
        )
    return protocol.model_copy(
        update={"name": "+".join((name, *spaces)), "spaces": tuple(spaces), "metrics": (*protocol.metrics, *metrics)}
    )
