"""The Frechet distance between Gaussians fitted to features, exact and in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps


class RunningMoments:
    """Sums of features in float64, so that memory does not grow with the number of images."""

    def __init__(self, dimensions: int) -> None:
        self.count = 0
        self._shift: Tensor | None = None
        self._sum = torch.zeros(dimensions, dtype=torch.float64)
        self._outer = torch.zeros(dimensions, dimensions, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add features ``[B, D]``."""
        if len(features) == 0:
            return
        rows = features.double().cpu()
        if self._shift is None:  # sums about a point near the mean: no cancellation in the covariance
            self._shift = rows.mean(0)
        rows = rows - self._shift
        self.count += len(rows)
        self._sum += rows.sum(0)
        self._outer += rows.T @ rows

    def gaussian(self) -> Gaussian:
        """Return mean and unbiased covariance of all rows so far; at least two are needed."""
        if self._shift is None or self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, not {self.count}")
        mean = self._sum / self.count
        covariance = (self._outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Gaussian(mean + self._shift, covariance)


LARGE = 512
"""From so many dimensions on, singular values take too long."""


@dataclass(frozen=True)
class Gaussian:
    """A mean ``[D]`` and a covariance ``[D, D]``, float64.

    Attributes:
        known_root: the root, where it was computed before.
    """

    mean: Tensor
    covariance: Tensor
    known_root: Tensor | None = None

    @cached_property
    def root(self) -> Tensor:
        """A matrix R ``[D, <= D]`` with R R^T equal to the covariance, singular or not; computed once.

        In many dimensions it is Cholesky's if there is one, else it has as many columns as the covariance has rank.
        """
        if self.known_root is not None:
            return self.known_root
        covariance = (self.covariance + self.covariance.T) / 2
        large = len(covariance) >= LARGE
        if large:
            factor: Tensor
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if not failed:
                return factor
        values, vectors = torch.linalg.eigh(covariance)
        root: Tensor = vectors * values.clamp(min=0).sqrt()
        return root[:, values > len(values) * EPSILON * values[-1]] if large else root


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), the squared Wasserstein-2 distance.

    The trace of the root is the sum of the singular values of R_a^T R_b, or, in many dimensions, of the roots of the
    eigenvalues of R_b^T S_a R_b. Where a covariance is singular, rounding leaves about 1e-8 of its scale; full-rank
    ones keep some 14 digits, or 8 in many dimensions. The factors are kept with their Gaussians: give the one that
    is used again as ``b``.
    """
    mean = (a.mean - b.mean).square().sum()
    if len(a.mean) < LARGE:
        root_trace = torch.linalg.svdvals(a.root.T @ b.root).sum()
    else:
        product = b.root.T @ (a.covariance @ b.root)
        root_trace = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = float(mean + a.covariance.trace() + b.covariance.trace() - 2 * root_trace)
    if math.isnan(distance):
        raise ValueError("a Frechet distance needs finite features")
    return max(0.0, distance)
