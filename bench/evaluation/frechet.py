"""The Frechet distance between Gaussians fitted to features, exact and in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps


class RunningMoments:
    """Sums of features about a fixed point, in float64: memory does not grow with the number of images.

    The covariance is as accurate as the point is near the mean, measured in spreads: give the reference's mean. Sums
    about the same point add up, so several processes can share out the rows.

    Args:
        shift: the point ``[D]``; it is part of the state, and never changed.

    Attributes:
        shift: the point ``[D]``, float64.
        count: number of rows.
        sum: sum of the rows less the point ``[D]``, float64.
        outer: sum of their outer products ``[D, D]``, float64.
    """

    def __init__(self, shift: Tensor) -> None:
        self.shift = shift.detach().double().cpu()
        self.count = 0
        self.sum = torch.zeros_like(self.shift)
        self.outer = torch.zeros(len(self.shift), len(self.shift), dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Add features ``[B, D]``."""
        if len(features) == 0:
            return
        rows = features.double().cpu() - self.shift
        self.count += len(rows)
        self.sum += rows.sum(0)
        self.outer += rows.T @ rows

    def merge(self, other: RunningMoments) -> None:
        """Add the rows of other sums about the same point; several are merged in a fixed order, as rounding has one.

        Raises:
            ValueError: the sums are about different points.
        """
        if not torch.equal(self.shift, other.shift):
            raise ValueError("sums about different points do not add up; give all parts the same shift")
        self.count += other.count
        self.sum += other.sum
        self.outer += other.outer

    def gaussian(self) -> Gaussian:
        """Return mean and unbiased covariance of all rows so far.

        Raises:
            ValueError: there are fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, not {self.count}")
        mean = self.sum / self.count
        covariance = (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return Gaussian(mean + self.shift, covariance)


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
