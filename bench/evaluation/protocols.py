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

NEIGHBOURS = "neighbours"
"""What stands behind a protocol's name, like an extractor's, to ask for :data:`NEIGHBOUR_METRICS`."""

NEIGHBOUR_METRICS = ("density", "coverage", "authenticity", "ct")
"""What is computed in each feature space then, see :mod:`tractbench.evaluation.neighbours`."""

OWN_SPACES = ("pixel", "feature")
"""Feature spaces that ``raw`` always has; those of ``raw+NAME`` come after them."""

KERNEL_SPACES = frozenset({"clip"})
"""Spaces in which the maximum mean discrepancy is customary."""

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
        spaces: feature extractors besides the protocol's own, as ``NAME+EXTRACTOR`` asks for them.
        neighbours: whether density, coverage, authenticity and C_T are computed, in every space.
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
    neighbours: bool = False

    @property
    def own_spaces(self) -> tuple[str, ...]:
        """The feature spaces that the protocol always has."""
        return ("inception",) if self.inception else OWN_SPACES

    @property
    def core(self) -> Protocol:
        """The protocol without what :class:`~tractbench.evaluation.space_scorer.SpaceScorer` adds to its scores."""
        if not self.neighbours and not (self.inception and self.spaces):
            return self
        base = PROTOCOLS[self.name.partition("+")[0]]
        spaces = () if self.inception else self.spaces
        metrics = tuple(name for name in self.metrics if name not in self.added)
        name = "+".join((base.name, *spaces))
        return self.model_copy(update={"name": name, "spaces": spaces, "neighbours": False, "metrics": metrics})

    @property
    def added(self) -> tuple[str, ...]:
        """The metrics that :attr:`core` has not."""
        distances = [name for space in self.spaces for name in distances_in(space)] if self.inception else []
        near = [f"{name}_{space}" for space in (*self.own_spaces, *self.spaces) for name in NEIGHBOUR_METRICS]
        return tuple(name for name in (*distances, *(near if self.neighbours else ())) if name in self.metrics)

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


def distances_in(space: str) -> tuple[str, ...]:
    """Return the distances in a feature space that is added to an Inception protocol."""
    return (f"fd_{space}", f"mmd_{space}") if space in KERNEL_SPACES else (f"fd_{space}",)


def load_protocol(name: str) -> Protocol:
    """Return a protocol by name; ``tract+dinov2`` is ``tract`` with the distances in another extractor's features too.

    ``NAME+neighbours`` adds density, coverage, authenticity and C_T, in every space. The extractor itself is looked for
    when something is scored: a report needs none.

    Raises:
        ConfigError: there is none of that name, and the message has the nearest one, or it takes no extractors.
    """
    name, *added = name.split("+")
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}{nearest_name(name, PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if not added:
        return protocol
    if protocol.reference != "train":
        raise ConfigError(f"protocol '{name}' has its own features; add extractors to 'raw': raw+{'+'.join(added)}")
    added = list(dict.fromkeys(map(normal, added)))
    spaces = tuple(space for space in added if space != NEIGHBOURS)
    shown = "+".join((name, *spaces, *([NEIGHBOURS] if NEIGHBOURS in added else [])))
    new = [
        distance
        for space in spaces
        for distance in (distances_in(space) if protocol.inception else (f"fd_{space}", f"fd_{space}_held_out"))
    ]
    if "" in spaces or set(spaces) & set(protocol.own_spaces) or set(new) & set(protocol.metrics):
        raise ConfigError(
            f"protocol {shown!r}: name extractors that '{name}' has not; see 'tractbench list extractors'"
        )
    if NEIGHBOURS in added:
        new += [f"{metric}_{space}" for space in (*protocol.own_spaces, *spaces) for metric in NEIGHBOUR_METRICS]
    changes = {"spaces": spaces, "neighbours": NEIGHBOURS in added, "metrics": (*protocol.metrics, *new)}
    return protocol.model_copy(update={"name": shown} | changes)


def with_additions(protocol: str, features: str | None, neighbours: bool) -> str:
    """Return the name of a protocol with more feature spaces, of those that it has not yet.

    Args:
        protocol: its name.
        features: names of extractors, joined by commas.
        neighbours: also ask for density, coverage, authenticity and C_T.

    Raises:
        ConfigError: it takes none.
    """
    known = load_protocol(protocol)
    asked = [normal(name.strip()) for name in features.split(",")] if features is not None else []
    new = [name for name in dict.fromkeys(asked) if name not in (*known.own_spaces, *known.spaces)]
    new += [NEIGHBOURS] if neighbours and not known.neighbours else []
    return load_protocol("+".join((known.name, *new))).name
