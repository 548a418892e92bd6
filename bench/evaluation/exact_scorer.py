"""Scores of points whose distribution is known.

``fd_exact`` is the Frechet distance to the distribution's true mean and covariance, and ``sliced_w2`` the root mean
square over directions of the Wasserstein-2 distance of projections to those of fresh true points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.frechet import Gaussian, RunningMoments, frechet_distance
from tractbench.evaluation.manifest import Basis
from tractbench.evaluation.part import Part, merged
from tractbench.evaluation.protocols import Protocol
from tractbench.io.canonical import canonical
from tractbench.seeds import generator
from tractbench.training.parallel import ALONE, Group

DIRECTIONS = 64
"""Random directions of the sliced Wasserstein distance."""


class ExactScorer:
    """Scores points against the distribution they should have.

    Args:
        dataset: the data.
        protocol: the protocol.
        samples: how many true points the floors are of.

    Raises:
        ConfigError: nobody knows the data's distribution.
    """

    def __init__(self, dataset: Dataset, protocol: Protocol, samples: int) -> None:
        if dataset.distribution is None:
            raise ConfigError(
                f"protocol '{protocol.name}' needs a data set with a known distribution, not '{dataset.name}'; "
                f"use --protocol {dataset.workload.protocol}"
            )
        self.protocol, self.together = protocol, 1
        self._name, self._distribution, self._samples = dataset.name, dataset.distribution, samples
        parts = [dataset.fingerprint, protocol.key, DIRECTIONS]
        self.reference_hash = hashlib.sha256(canonical(parts).encode()).hexdigest()

    @property
    def basis(self) -> Basis:
        """What the scores depend on besides the samples."""
        return Basis(
            weights={},
            verified=True,
            statistics=f"the distribution of {self._name}",
            reference_images=None,
            reference_hash=self.reference_hash,
        )

    @cached_property
    def _truth(self) -> Gaussian:
        return Gaussian(self._distribution.mean, self._distribution.covariance)

    @cached_property
    def _directions(self) -> Tensor:
        """Directions ``[64, D]`` of length one."""
        size = (DIRECTIONS, len(self._truth.mean))
        drawn = torch.randn(size, dtype=torch.float64, generator=generator("directions", size[1]))
        return torch.nn.functional.normalize(drawn, dim=1)

    @cached_property
    def floors(self) -> dict[str, float]:
        """The scores of as many true points as there will be samples."""
        return self.score([self._distribution.draw(self._samples, "floor")])

    def prepare(self, group: Group = ALONE) -> None:
        """Compute the floors now, on rank 0."""
        if group.is_main:
            _ = self.floors

    def score(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Score points ``[B, D, 1, 1]``, all held at once."""
        return self.finish([self.collect(batches)])

    def collect(self, batches: Iterable[Tensor]) -> Part:
        """Return the points ``[B, D]`` themselves."""
        points = [batch.double().flatten(1) for batch in batches]
        return Part({}, rows={"points": torch.cat(points)} if points else {})

    def finish(self, parts: Sequence[Part]) -> dict[str, float]:
        """Return the scores of all points."""
        points = merged(parts).rows["points"]
        moments = RunningMoments(self._truth.mean)
        moments.add(points)
        fresh = self._distribution.draw(len(points), "fresh").double().flatten(1)
        ours, true = ((x @ self._directions.T).sort(dim=0).values for x in (points, fresh))
        sliced = float((ours - true).square().mean().sqrt())
        return {"fd_exact": frechet_distance(moments.gaussian(), self._truth), "sliced_w2": sliced}
