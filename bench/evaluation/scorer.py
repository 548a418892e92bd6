"""Which scorer a protocol needs, and what it will be called in identities, found without computing anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol as TypingProtocol

from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.exact_scorer import ExactScorer
from tractbench.evaluation.extractors.inception import choose_weights
from tractbench.evaluation.fidelity import held_out_images, lacking
from tractbench.evaluation.image_scorer import ImageScorer
from tractbench.evaluation.inception_scorer import InceptionScorer, check_data
from tractbench.evaluation.manifest import Basis
from tractbench.evaluation.part import Part
from tractbench.evaluation.protocols import Protocol
from tractbench.evaluation.space_scorer import SpaceScorer
from tractbench.progress import Progress
from tractbench.training.parallel import ALONE, Group


class Scorer(TypingProtocol):
    """Scores samples of one data set under one protocol; its reference statistics are computed once, when needed.

    Attributes:
        protocol: the protocol, with the metrics that are computed.
        reference_hash: sha256 of the data, the extractors and the protocol.
        together: images whose features are always computed together, counted from the first sample.
    """

    protocol: Protocol
    reference_hash: str
    together: int

    @property
    def floors(self) -> dict[str, float]:
        """For each metric, the value that real data nothing was trained on have; empty if nobody computes it."""

    @property
    def basis(self) -> Basis:
        """What the scores depend on besides the samples."""

    def prepare(self, group: Group = ALONE) -> None:
        """Fetch and compute what the first score needs, with progress bars; not needed, but a score has no bar.

        The processes of a group, which must all call it, compute statistics once.
        """

    def collect(self, batches: Iterable[Tensor]) -> Part:
        """Return what is needed of quantised images ``[B, C, H, W]``, a process's share of the samples or all."""

    def finish(self, parts: Sequence[Part]) -> dict[str, float]:
        """Return the scores of all samples, of the parts in the order of the samples."""

    def score(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Score quantised images ``[B, C, H, W]``: collect and finish."""


def make_scorer(
    dataset: Dataset,
    protocol: Protocol,
    chunk: int,
    samples: int,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    weights: Path | None = None,
    statistics: Path | None = None,
) -> Scorer:
    """Return the scorer of a protocol; no weights are loaded, no statistics computed and no images read for that.

    Args:
        dataset: the data.
        protocol: the protocol.
        chunk: features are extracted and summed in pieces of so many images; the Inception network has its own size.
        samples: how many samples will be scored; Inception metrics that need more, or more of the reference, are left
            out of the protocol, which is said; on data without end the floors are those of as many true points.
        device: where the Inception network runs.
        progress: draws what is done before the first score, and says what is left out.
        weights: Inception weights instead of the published ones; no score is a FID then.
        statistics: npz file of Inception statistics instead of those of the training images.

    Raises:
        ConfigError: the protocol is for other data, or a file that is given cannot be read.
    """
    if protocol.inception:
        check_data(dataset, protocol)
    protocol = _possible(dataset, protocol, samples, statistics, progress)
    core = protocol.core
    main: Scorer
    if core.inception:
        chosen, near = choose_weights(weights), protocol.neighbours
        main = InceptionScorer(
            dataset, core, chosen, device=device, progress=progress, statistics=statistics, keep_features=near
        )
    else:
        for option, value in (("weights", weights), ("statistics", statistics)):
            if value is not None:
                raise ConfigError(
                    f"{option} {value}: protocol '{protocol.name}' uses no Inception network; leave it out"
                )
        if core.reference == "exact":
            return ExactScorer(dataset, core, samples)
        main = ImageScorer(dataset, core, chunk)
    return main if core is protocol else SpaceScorer(main, dataset, protocol, device=device, progress=progress)


def _possible(
    dataset: Dataset, protocol: Protocol, samples: int, statistics: Path | None, progress: Progress | None
) -> Protocol:
    """Return the protocol without the metrics that need more images than there are, and say which these are."""
    metrics = protocol.metrics if protocol.inception else protocol.added
    held_out = held_out_images(dataset) if protocol.neighbours else 0
    training = dataset.training_images if metrics and not statistics else None
    missing = lacking(metrics, samples, training, held_out)
    for name, need in missing.items():
        (progress or Progress()).message(f"{name} is left out: it needs {need}")
    return (
        protocol.model_copy(update={"metrics": tuple(name for name in protocol.metrics if name not in missing)})
        if missing
        else protocol
    )


def reference_hash(
    dataset: Dataset, protocol: Protocol, *, samples: int, weights: Path | None = None, statistics: Path | None = None
) -> str:
    """Return the ``reference_hash`` of the scorer that :func:`make_scorer` would return.

    It follows from the configuration, from cards and from the data's manifest; of a file of weights or statistics that
    a user gives, the hash is computed once.

    Args:
        dataset: the data.
        protocol: the protocol.
        samples: how many samples will be scored.
        weights: Inception weights instead of the published ones.
        statistics: npz file of Inception statistics instead of those of the training images.

    Raises:
        ConfigError: the protocol is for other data, or a file that is given cannot be read.
    """
    return make_scorer(dataset, protocol, 1, samples, weights=weights, statistics=statistics).reference_hash
