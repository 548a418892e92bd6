"""Scores of a set of quantised samples against a data set's training and held-out images.

``fd_pixel`` and ``fd_feature`` are Frechet distances to the training images, of pixels in [-1, 1] and of the data set's
own feature network; ``_held_out`` are the same to images nothing was trained on. None of them is a FID, which is
defined by the Inception network.

``nn_ratio`` is the mean distance of a sample to its nearest training image over the mean distance to its nearest
held-out image. It is 0 for a sampler that only repeats its training images; fresh real images have the value given as
its floor.

On analytic data, ``fd_exact`` is the Frechet distance to the distribution's true mean and covariance, and ``sliced_w2``
the root mean square over directions of the Wasserstein-2 distance of projections to those of fresh true points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol as TypingProtocol

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.datasets.formats.mixture import Mixture
from tractbench.errors import ConfigError
from tractbench.evaluation.features import Extractor, feature_extractor, pixel_extractor
from tractbench.evaluation.fidelity import lacking
from tractbench.evaluation.frechet import Gaussian, RunningMoments, frechet_distance
from tractbench.evaluation.inception import choose_weights
from tractbench.evaluation.inception_scorer import InceptionScorer, check_data
from tractbench.evaluation.manifest import Basis
from tractbench.evaluation.protocols import Protocol
from tractbench.io.canonical import canonical
from tractbench.progress import Progress
from tractbench.seeds import generator

DIRECTIONS = 64
"""Random directions of the sliced Wasserstein distance."""


class Scorer(TypingProtocol):
    """Scores samples of one data set under one protocol; its reference statistics are computed once.

    Attributes:
        protocol: the protocol.
        floors: for each metric, the value that real data nothing was trained on have; empty if nobody computes it.
        reference_hash: sha256 of the data, the extractors and the protocol.
    """

    protocol: Protocol
    floors: dict[str, float]
    reference_hash: str

    @property
    def basis(self) -> Basis:
        """What the scores depend on besides the samples."""

    def prepare(self) -> None:
        """Fetch and compute what the first score needs, with progress bars; not needed, but a score has no bar."""

    def score(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Score quantised images ``[B, C, H, W]``."""


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
    """Return the scorer of a protocol.

    Args:
        dataset: the data.
        protocol: the protocol.
        chunk: features are extracted and summed in pieces of so many images; the Inception network has its own size.
        samples: how many samples will be scored; Inception metrics that need more, or more of the reference, are left
            out of the protocol, which is said; on data without end the floors are those of as many true points.
        device: where the Inception network runs.
        progress: draws what an Inception protocol does before its first score.
        weights: Inception weights instead of the published ones; no score is a FID then.
        statistics: npz file of Inception statistics instead of those of the training images.

    Raises:
        ConfigError: the protocol is for other data.
    """
    if protocol.inception:
        check_data(dataset, protocol)
        missing = lacking(protocol.metrics, samples, None if statistics else len(dataset.train))
        for name, need in missing.items():
            (progress or Progress()).message(f"{name} is left out: it needs {need}")
        possible = tuple(name for name in protocol.metrics if name not in missing)
        protocol, chosen = protocol.model_copy(update={"metrics": possible}), choose_weights(weights)
        return InceptionScorer(dataset, protocol, chosen, device=device, progress=progress, statistics=statistics)
    for option, value in (("weights", weights), ("statistics", statistics)):
        if value is not None:
            raise ConfigError(f"{option} {value}: protocol '{protocol.name}' uses no Inception network; leave it out")
    if protocol.reference == "exact":
        if isinstance(dataset, Mixture):
            return ExactScorer(dataset, protocol, samples)
        raise ConfigError(
            f"protocol '{protocol.name}' needs a data set with a known distribution, not '{dataset.name}'"
        )
    if isinstance(dataset, Mixture) or not dataset.workload.features:
        raise ConfigError(
            f"protocol '{protocol.name}' needs a data set with a feature network of its own, not '{dataset.name}'; "
            f"use --protocol {dataset.workload.protocol}"
        )
    return ImageScorer(dataset, protocol, chunk)


class ExactScorer:
    """Scores points against the distribution they should have."""

    def __init__(self, dataset: Mixture, protocol: Protocol, samples: int) -> None:
        self.protocol = protocol
        mean = dataset.weights @ dataset.means
        centred = dataset.means - mean
        within = torch.einsum("k,kde->de", dataset.weights, dataset.covariances)
        self._truth = Gaussian(mean, within + torch.einsum("k,kd,ke->de", dataset.weights, centred, centred))
        directions = torch.randn(
            (DIRECTIONS, len(mean)), dtype=torch.float64, generator=generator("directions", len(mean))
        )
        self._directions = directions / directions.norm(dim=1, keepdim=True)
        self._dataset = dataset
        parts = [dataset.fingerprint, protocol.key, DIRECTIONS]
        self.reference_hash = hashlib.sha256(canonical(parts).encode()).hexdigest()
        self.floors = self.score([dataset.draw(samples, "floor")])

    @property
    def basis(self) -> Basis:
        """What the scores depend on besides the samples."""
        source = f"the distribution of {self._dataset.name}"
        return Basis(
            weights={}, verified=True, statistics=source, reference_images=None, reference_hash=self.reference_hash
        )

    def prepare(self) -> None:
        """Do nothing: all is there."""

    def score(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Score points ``[B, D, 1, 1]``, all held at once."""
        points = torch.cat([batch.double().flatten(1) for batch in batches])
        moments = RunningMoments(points.shape[1])
        moments.add(points)
        fresh = self._dataset.draw(len(points), "fresh").double().flatten(1)
        ours, true = ((x @ self._directions.T).sort(dim=0).values for x in (points, fresh))
        sliced = float((ours - true).square().mean().sqrt())
        return {"fd_exact": frechet_distance(moments.gaussian(), self._truth), "sliced_w2": sliced}


class ImageScorer:
    """Scores images against training and held-out images."""

    def __init__(self, dataset: Dataset, protocol: Protocol, chunk: int) -> None:
        self.dataset, self.protocol, self._chunk = dataset, protocol, chunk
        self._extractors = (pixel_extractor(dataset), feature_extractor(dataset))
        self._train = {e.name: self._gaussian(e, dataset.train) for e in self._extractors}
        self._held_out = {e.name: self._gaussian(e, dataset.held_out) for e in self._extractors}
        self._train_pixels = dataset.decode(dataset.train).double().flatten(1)
        self._held_out_pixels = dataset.decode(dataset.held_out).double().flatten(1)
        parts = [dataset.fingerprint, protocol.key, [e.hash for e in self._extractors]]
        self.reference_hash = hashlib.sha256(canonical(parts).encode()).hexdigest()
        self.floors = self._floors()

    @property
    def basis(self) -> Basis:
        """What the scores depend on besides the samples."""
        train, held_out = len(self.dataset.train), len(self.dataset.held_out)
        return Basis(
            weights={extractor.name: extractor.hash for extractor in self._extractors},
            verified=True,
            statistics=f"the {train:,} training and {held_out:,} held-out images of {self.dataset.name}",
            reference_images=train,
            reference_hash=self.reference_hash,
        )

    def _gaussian(self, extractor: Extractor, images: Tensor) -> Gaussian:
        moments = RunningMoments(extractor.dimensions)
        for piece in torch.split(images, self._chunk):
            moments.add(extractor.extract(piece))
        return moments.gaussian()

    def _floors(self) -> dict[str, float]:
        floors = {}
        for extractor in self._extractors:
            floor = frechet_distance(self._train[extractor.name], self._held_out[extractor.name])
            floors[f"fd_{extractor.name}"] = floors[f"fd_{extractor.name}_held_out"] = floor
        among = torch.cdist(self._held_out_pixels, self._held_out_pixels)
        to_others = among.fill_diagonal_(torch.inf).amin(1).mean()
        to_train = torch.cdist(self._held_out_pixels, self._train_pixels).amin(1).mean()
        floors["nn_ratio"] = float(to_train / to_others)
        return floors

    def prepare(self) -> None:
        """Do nothing: all is there."""

    def score(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Score quantised images ``[B, C, H, W]`` uint8, streamed; memory does not grow with their number."""
        moments = {e.name: RunningMoments(e.dimensions) for e in self._extractors}
        to_train = to_held_out = 0.0
        for batch in batches:
            for piece in torch.split(batch, self._chunk):  # the same sums in the same order for any batch size
                for extractor in self._extractors:
                    moments[extractor.name].add(extractor.extract(piece))
                pixels = self.dataset.decode(piece).double().flatten(1)
                to_train += float(torch.cdist(pixels, self._train_pixels).amin(1).sum())
                to_held_out += float(torch.cdist(pixels, self._held_out_pixels).amin(1).sum())
        scores = {}
        for extractor in self._extractors:
            samples = moments[extractor.name].gaussian()
            scores[f"fd_{extractor.name}"] = frechet_distance(samples, self._train[extractor.name])
            scores[f"fd_{extractor.name}_held_out"] = frechet_distance(samples, self._held_out[extractor.name])
        scores["nn_ratio"] = to_train / to_held_out if to_held_out > 0 else float("inf")
        return {name: scores[name] for name in self.protocol.metrics}
