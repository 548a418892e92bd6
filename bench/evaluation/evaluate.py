"""Scores of a set of samples under a protocol, with the manifest that says what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError, nearest_name
from tractbench.evaluation.fidelity import FROM_FEATURES, check_metrics, held_out_images
from tractbench.evaluation.grey import GreyRows
from tractbench.evaluation.inception_scorer import check_data
from tractbench.evaluation.manifest import Manifest, versions
from tractbench.evaluation.protocols import PROTOCOLS, Protocol, load_protocol
from tractbench.evaluation.reference import regrouped
from tractbench.evaluation.sample_set import SampleSet, format_shape
from tractbench.evaluation.scorer import make_scorer
from tractbench.progress import Progress

CHUNK = 500


@dataclass(frozen=True)
class Evaluation:
    """What one set of samples scores under one protocol.

    Attributes:
        scores: every metric, the protocol's first one first, for each set of samples.
        quoted: the number that a table quotes, of the first metric.
        manifest: what the scores depend on.
    """

    scores: dict[str, tuple[float, ...]]
    quoted: float
    manifest: Manifest


@dataclass(frozen=True)
class Settings:
    """How samples are evaluated.

    Attributes:
        samples: images in one set instead of the protocol's number.
        metrics: which metrics instead of all that the protocol has and the reference allows.
        weights: Inception weights instead of the published ones.
        statistics: npz file of reference statistics instead of the training images'.
        allow_deviation: score samples whose number or size is not the protocol's, and say so in the manifest.
        device: where the Inception network runs.
        levels_given: the user says that grey levels are ones, however few of them there are.
        labels: how the samples' classes were chosen.
        seeds: their sampling seeds.
    """

    samples: int | None = None
    metrics: tuple[str, ...] | None = None
    weights: Path | None = None
    statistics: Path | None = None
    allow_deviation: bool = False
    device: str = "cpu"
    levels_given: bool = False
    labels: str = "unknown"
    seeds: tuple[int, ...] = ()


def protocols_of(dataset: Dataset, name: str | None) -> tuple[Protocol, ...]:
    """Return the protocol of a name, the data set's own for None, or every one that fits it for ``all``."""
    own = load_protocol(dataset.workload.protocol)
    if name != "all":
        return (load_protocol(name) if name else own,)
    return tuple(p for p in PROTOCOLS.values() if p.inception) if own.inception else (own,)


def evaluate(
    samples: SampleSet, dataset: Dataset, protocol: Protocol, settings: Settings, progress: Progress
) -> Evaluation:
    """Score samples under a protocol; sets of the protocol's size are scored apart.

    Raises:
        ConfigError: the samples are not what the protocol takes, or too few for a metric.
        DamagedFileError: a file cannot be read.
    """
    if protocol.inception:
        check_data(dataset, protocol)
    protocol = _chosen_metrics(protocol, settings)
    size, sets, deviations = _plan(samples, dataset, protocol, settings)
    if not (samples.floats or settings.levels_given):
        _check_levels(samples, dataset)
    if protocol.inception:
        training = None if settings.statistics else dataset.training_images
        check_metrics(protocol.metrics, size, training, held_out_images(dataset) if protocol.neighbours else 0)
    scorer = make_scorer(
        dataset,
        protocol,
        CHUNK,
        size,
        device=settings.device,
        progress=progress,
        weights=settings.weights,
        statistics=settings.statistics,
    )
    scorer.prepare()
    per_set: list[dict[str, float]] = []
    first = scorer.protocol.metrics[0]
    with progress.task(f"scoring, protocol {protocol.name}", size * sets, "image") as task:
        rows = GreyRows(samples, dataset, protocol, task)
        for index in range(sets):
            per_set.append(scorer.score(regrouped(rows.take(size), CHUNK)))
            task.advance(0, f"set {index + 1}  {first} {per_set[-1][first]:.4g}")
    scores = {name: tuple(found[name] for found in per_set) for name in scorer.protocol.metrics}
    manifest = Manifest(
        protocol=protocol.name,
        dataset=dataset.name,
        resize=protocol.resize,
        quantise=protocol.quantise if samples.floats else "given",
        reported=protocol.reported,
        basis=scorer.basis,
        images=rows.digest.hexdigest(),
        source=samples.source,
        samples=size,
        sets=sets,
        protocol_sets=protocol.seeds,
        labels=settings.labels,
        seeds=settings.seeds,
        versions=versions(),
        deviations=deviations,
        notes=samples.notes,
        doubts=rows.doubts.found(scores),
    )
    return Evaluation(scores, protocol.quoted(scores[first]), manifest)


def _check_levels(samples: SampleSet, dataset: Dataset) -> None:
    """Raise ConfigError if there is no grey level but 0 and 1, as where images in [0, 1] were cast to uint8."""
    if dataset.levels > 2 and all(int(batch.max()) <= 1 for batch in samples.read()):
        raise ConfigError(
            f"{samples.source} has no grey level above 1, {dataset.name} has {dataset.levels}; scale before rounding, "
            "or say --range levels"
        )


def _chosen_metrics(protocol: Protocol, settings: Settings) -> Protocol:
    """Return the protocol with the metrics that the user wants, or all that imported statistics allow."""
    metrics = protocol.metrics
    if settings.metrics is None and settings.statistics is not None:
        metrics = tuple(name for name in metrics if name not in FROM_FEATURES)
    if settings.metrics is not None:
        for name in settings.metrics:
            if name not in metrics:
                raise ConfigError(f"protocol '{protocol.name}' has no metric {name!r}{nearest_name(name, metrics)}")
        metrics = tuple(name for name in metrics if name in settings.metrics)
    if not metrics:
        raise ConfigError(f"no metric given; protocol '{protocol.name}' has {', '.join(protocol.metrics)}")
    return protocol.model_copy(update={"metrics": metrics})


def _plan(
    samples: SampleSet, dataset: Dataset, protocol: Protocol, settings: Settings
) -> tuple[int, int, tuple[str, ...]]:
    """Return the images in a set, the number of sets, and what deviates from the protocol."""
    deviations: list[str] = []
    count, expected = samples.count, settings.samples or protocol.samples or samples.count
    if count == 0:
        raise ConfigError(f"{samples.source} holds no sample; give at least one set of them")
    if samples.shape[0] != dataset.shape[0] or (samples.shape != dataset.shape and not protocol.inception):
        raise ConfigError(
            f"{samples.source} holds {format_shape(samples.shape)} images, {dataset.name} has "
            f"{format_shape(dataset.shape)}; save them so, or choose another --dataset"
        )
    if samples.shape != dataset.shape:
        deviations.append(f"images are {format_shape(samples.shape)}, {dataset.name} has {format_shape(dataset.shape)}")
    if protocol.samples and expected != protocol.samples:
        deviations.append(f"{expected:,} samples in a set instead of {protocol.samples:,}")
    if count < expected:
        deviations.append(f"{count:,} samples instead of {expected:,}")
        expected = count
    if expected < 2:
        raise ConfigError(f"{samples.source} holds a single sample; a distance needs at least 2, a figure thousands")
    sets = min(count // expected, protocol.seeds or len(settings.seeds) or 1)
    if left := count - sets * expected:
        deviations.append(f"the last {left:,} of {count:,} samples are left out")
    if deviations and not settings.allow_deviation:
        raise ConfigError(
            f"{samples.source} is not what protocol '{protocol.name}' takes: {'; '.join(deviations)}; give what it "
            "takes, or add --allow-deviation to score it and say so"
        )
    if settings.statistics is None and dataset.deviates:  # else its images are not compared with, nor needed here
        deviations.append(f"{dataset.name} itself: {dataset.deviates}")
    return expected, sets, tuple(deviations)
