"""Does scoring work here: identities that must hold, and agreement with torch-fidelity, on a data set's own images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.classifier import ClassifierExtractor
from tractbench.evaluation.extractors.inception import Inception, Weights, torch_fidelity_network
from tractbench.evaluation.fidelity import moments
from tractbench.evaluation.frechet import frechet_distance
from tractbench.evaluation.protocols import Protocol
from tractbench.evaluation.reference import BATCH
from tractbench.progress import Progress

IMAGES = 1000
"""Real images of each split, unless the user wants another number."""


@dataclass(frozen=True)
class Check:
    """One check: what was found, what it must be, and whether it is; ``passed`` is None for a figure to look at."""

    name: str
    value: float
    expected: str
    passed: bool | None


def self_check(
    dataset: Dataset, protocol: Protocol, weights: Weights, images: int | None, device: str, progress: Progress
) -> tuple[Check, ...]:
    """Score real images against real images under a protocol.

    Args:
        dataset: the data, with real images.
        protocol: the protocol.
        weights: Inception weights, for an Inception protocol.
        images: images of each split; 1,000 by default.
        device: where the Inception network runs.
        progress: draws the bars.

    Raises:
        ConfigError: the data have no images.
    """
    if dataset.distribution is not None:
        raise ConfigError(f"data set '{dataset.name}' has no real images to check with; use --dataset digits")
    agreement: tuple[Check, ...] = ()
    extract: Callable[[Tensor], Tensor]
    if protocol.inception:
        network = Inception(weights, device, progress)
        agreement = (_network_check(network, weights, dataset),)
        extract = lambda batch: network(batch, protocol.resize).pool  # noqa: E731
    else:
        extract = ClassifierExtractor(dataset)
    train = _features(extract, dataset.train, images or IMAGES, "training images", progress)
    held_out = _features(extract, dataset.held_out, images or IMAGES, "held-out images", progress)
    a, b = moments(train), moments(held_out)
    distance, theirs = frechet_distance(b, a), _their_distance(train, held_out)
    return (
        Check(f"FD of {len(held_out):,} held-out images to {len(train):,} training images", distance, "-", None),
        _small("FD of the training images to themselves, over their variance",
               frechet_distance(a, moments(train)) / float(a.covariance.trace())),
        _small("FD with sides swapped, relative difference", abs(frechet_distance(a, b) / distance - 1)),
        _small("FD against torch-fidelity's, relative difference", abs(distance / theirs - 1)),
        *agreement,
    )  # fmt: skip


def _small(name: str, value: float, limit: float = 1e-5) -> Check:
    return Check(name, value, f"below {limit:g}", value < limit)


def _network_check(network: Inception, weights: Weights, dataset: Dataset) -> Check:
    """Compare features with those of torch-fidelity's own network, which resizes like TensorFlow."""
    images = dataset.train[:4]
    with torch.no_grad():
        theirs = torch_fidelity_network(weights.path)(images)[0]
    ours = network(images, "tensorflow").pool
    difference = float((ours - theirs).norm() / theirs.norm())
    return _small("features against torch-fidelity's network, relative difference", difference, 1e-4)


def _features(extract: Callable[[Tensor], Tensor], images: Tensor, count: int, name: str, progress: Progress) -> Tensor:
    """Return features ``[N, D]``, float64, of ``count`` images spread evenly over a split, or of all."""
    index = torch.linspace(0, len(images) - 1, min(count, len(images)), dtype=torch.float64).long()
    with progress.task(f"features of {name}", len(index), "image") as task:
        found = []
        for part in torch.split(index, BATCH):
            found.append(extract(images[part]).double())
            task.advance(len(part))
    return torch.cat(found)


def _their_distance(x: Tensor, y: Tensor) -> float:
    """Return torch-fidelity's Frechet distance of features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_fidelity.metric_fid import (
            KEY_METRIC_FID,
            fid_features_to_statistics,
            fid_statistics_to_metric,
        )

        found = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), verbose=False)
    return float(found[KEY_METRIC_FID])
