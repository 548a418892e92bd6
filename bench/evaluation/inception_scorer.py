"""Scores by Inception features: one pass over the samples gives every metric of the protocol.

``fid`` is the Frechet distance to the reference; ``fid_infinity`` its extrapolation to infinitely many samples; ``kid``
the unbiased kernel distance; ``precision`` and ``recall`` are shares of samples and of training images within the
other's manifold; ``inception_score`` needs no reference. With other weights than the published ones none of them is
what it is called: they are then named ``fd_unverified`` and so on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.inception import Inception, Weights
from tractbench.evaluation.fidelity import (
    FROM_FEATURES,
    fid_infinity,
    inception_score,
    kernel_distance,
    precision_recall,
)
from tractbench.evaluation.frechet import RunningMoments, frechet_distance
from tractbench.evaluation.manifest import Basis
from tractbench.evaluation.part import Part, merged
from tractbench.evaluation.protocols import Protocol
from tractbench.evaluation.reference import (
    BATCH,
    Network,
    Reference,
    dataset_reference,
    import_reference,
    regrouped,
    statistics_sha256,
)
from tractbench.io.canonical import canonical
from tractbench.progress import Progress
from tractbench.training.parallel import ALONE, Group


def unverified_name(metric: str) -> str:
    """Return what a metric is called that was not computed with the published weights."""
    return f"{metric.replace('fid', 'fd', 1) if metric.startswith('fid') else metric}_unverified"


def check_data(dataset: Dataset, protocol: Protocol) -> None:
    """Raise ConfigError if an Inception protocol is not for such data."""
    if dataset.distribution is not None or dataset.shape[0] != 3 or dataset.levels != 256:
        raise ConfigError(
            f"protocol '{protocol.name}' needs RGB images of 256 grey levels, which '{dataset.name}' has not; "
            f"use --protocol {dataset.workload.protocol}"
        )


class InceptionScorer:
    """Scores images against a data set's training images by Inception features.

    Nothing but hashes of the files that a user gives is computed here: weights are fetched, statistics read or computed
    when :meth:`prepare` or the first score asks for them.

    Args:
        dataset: the data, RGB with 256 grey levels.
        protocol: an Inception protocol; its metrics are what is computed.
        weights: of the network.
        device: where the network runs.
        progress: draws downloads and the pass over the training images.
        statistics: npz file to compare with instead of the training images.
        keep_features: every part also holds the features themselves, as ``pool``.

    Raises:
        ConfigError: there is no such file of statistics.
    """

    def __init__(
        self,
        dataset: Dataset,
        protocol: Protocol,
        weights: Weights,
        *,
        device: str = "cpu",
        progress: Progress | None = None,
        statistics: Path | None = None,
        keep_features: bool = False,
    ) -> None:
        self._keep_features = keep_features
        self._metrics = protocol.metrics
        names = self._metrics if weights.verified else tuple(map(unverified_name, self._metrics))
        self.protocol = protocol.model_copy(update={"metrics": names})
        self._dataset, self._weights, self._statistics = dataset, weights, statistics
        self._device, self._progress, self.together = device, progress or Progress(), BATCH
        self._shift: Tensor | None = None
        self._imported = None if statistics is None else statistics_sha256(statistics)
        parts = [self._imported or dataset.fingerprint, self.protocol.key, weights.sha256]
        self.reference_hash = hashlib.sha256(canonical(parts).encode()).hexdigest()

    @property
    def floors(self) -> dict[str, float]:
        """Nothing: no scores of held-out images are computed."""
        return {}

    @cached_property
    def network(self) -> Network:
        """The Inception network."""
        return Inception(self._weights, self._device, self._progress)

    @cached_property
    def reference(self) -> Reference:
        """What samples are compared with."""
        if self._statistics is not None:
            return import_reference(self._statistics)
        resize, sha256 = self.protocol.resize, self._weights.sha256
        return dataset_reference(self._dataset, resize, sha256, self.network, self._progress)

    @property
    def basis(self) -> Basis:
        """What the scores depend on besides the samples."""
        if self._statistics is None:
            images: int | None = self._dataset.training_images
            source = f"computed from the {images:,} training images of {self._dataset.name}"
        else:
            images, source = None, f"imported from {self._statistics.name} {self._imported}"
        return Basis(
            weights={"inception": self._weights.sha256},
            verified=self._weights.verified,
            statistics=source,
            reference_images=images,
            reference_hash=self.reference_hash,
        )

    def prepare(self, group: Group = ALONE) -> None:
        """Fetch weights and compute the reference statistics now, with progress bars.

        Of several processes, one of each machine fetches, rank 0 computes, and the others learn the mean alone.
        """
        with group.one_a_machine_first():
            _ = self.network
        self._shift = group.from_main(lambda: self.reference.gaussian.mean)

    def score(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Score images ``[B, 3, H, W]`` uint8; features are held only if a metric beside ``fid`` needs them."""
        return self.finish([self.collect(batches)])

    def collect(self, batches: Iterable[Tensor]) -> Part:
        """Return moments of the features, and those features and logits that a metric beside ``fid`` needs."""
        sums = RunningMoments(self.reference.gaussian.mean if self._shift is None else self._shift)
        held: dict[str, list[Tensor]] = {}
        if self._keep_features or {"fid_infinity", *FROM_FEATURES} & set(self._metrics):
            held["pool"] = []
        if "inception_score" in self._metrics:
            held["logits"] = []
        for batch in regrouped(batches, BATCH):
            features = self.network(batch, self.protocol.resize)
            sums.add(features.pool)
            for name, rows in held.items():
                rows.append(getattr(features, name))
        return Part({"pool": sums}, rows={name: torch.cat(rows) for name, rows in held.items() if rows})

    def finish(self, parts: Sequence[Part]) -> dict[str, float]:
        """Return the scores of all images."""
        whole, reference = merged(parts), self.reference
        scores: dict[str, float] = {}
        if "fid" in self._metrics:
            scores["fid"] = frechet_distance(whole.moments["pool"].gaussian(), reference.gaussian)
        if "pool" in whole.rows:
            scores |= self._from_features(whole.rows["pool"], reference)
        if "logits" in whole.rows:
            scores["inception_score"] = inception_score(whole.rows["logits"])
        return {shown: scores[name] for shown, name in zip(self.protocol.metrics, self._metrics, strict=True)}

    def _from_features(self, features: Tensor, reference: Reference) -> dict[str, float]:
        scores: dict[str, float] = {}
        if "fid_infinity" in self._metrics:
            scores["fid_infinity"] = fid_infinity(features, reference.gaussian)
        if reference.features is not None:
            wanted = tuple(name for name in self._metrics if name in FROM_FEATURES)
            if "kid" in wanted:
                scores["kid"] = kernel_distance(features, reference.features)
            if {"precision", "recall"} & set(wanted):
                scores["precision"], scores["recall"] = precision_recall(features, reference.features)
        return scores
