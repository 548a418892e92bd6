"""Diffusion processes: x_t = alpha(t) x_0 + sigma(t) eps for a time t in [0, 1].

Times are float64 tensors ``[B]``, or of any shape; t = 0 is the clean end and t = 1 pure noise. A sampler of S steps
visits t = 1, (S-1)/S, ..., 0, so a step index i of S is the exact quotient i/S.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """Reshape ``[B]`` to ``[B, 1, ..., 1]`` so that it scales the samples of ``like``."""
    return value.reshape(-1, *[1] * (like.ndim - 1))


class Scales(NamedTuple):
    """Return what a step from t to s needs, each ``[B]``.

    Attributes:
        sigma_t: noise scale at t.
        sigma_s: noise scale at s.
        cross: alpha(s) sigma(t) - alpha(t) sigma(s), without cancellation as s approaches t.
    """

    sigma_t: Tensor
    sigma_s: Tensor
    cross: Tensor


class Process(Protocol):
    """A Gaussian diffusion process; every method maps times to float64 of the same shape."""

    @property
    def name(self) -> str:
        """The value of ``--process`` that chooses it."""

    @property
    def prior_std(self) -> float:
        """Standard deviation of the noise that sampling starts from."""

    @property
    def key(self) -> dict[str, object]:
        """All that decides what the process computes, as JSON values: part of the names of students."""

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at t."""

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at t."""

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(alpha^2 / sigma^2) at t."""

    def scales(self, t: Tensor, s: Tensor) -> Scales:
        """Return what a step from t to s needs."""


@dataclass(frozen=True)
class VP:
    """The variance-preserving process with a cosine schedule, logSNR from +20 to -20 (TRACT, appendix; iDDPM).

    It is a rotation: alpha = cos(phi), sigma = sin(phi) with phi(t) = a t + b. This form cancels nowhere, where
    1 - alpha^2 would near t = 0, and sigma is never 0.
    """

    log_snr_max: float = 20.0
    log_snr_min: float = -20.0
    name: str = "vp"
    prior_std: float = 1.0

    @property
    def key(self) -> dict[str, object]:
        """Name and range of logSNR."""
        return {"name": self.name, "log_snr": [self.log_snr_min, self.log_snr_max]}

    @property
    def _start(self) -> float:
        return math.atan(math.exp(-self.log_snr_max / 2))

    @property
    def _turn(self) -> float:
        return math.atan(math.exp(-self.log_snr_min / 2)) - self._start

    def phi(self, t: Tensor) -> Tensor:
        """Angle of the rotation at t."""
        return self._turn * t.double() + self._start

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at t."""
        return torch.cos(self.phi(t))

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at t."""
        return torch.sin(self.phi(t))

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(alpha^2 / sigma^2) = -2 ln tan(phi) at t."""
        return -2 * torch.log(torch.tan(self.phi(t)))

    def scales(self, t: Tensor, s: Tensor) -> Scales:
        """Return what a step from t to s needs; cross is sin(phi(t) - phi(s))."""
        return Scales(self.sigma(t), self.sigma(s), torch.sin(self._turn * (t.double() - s.double())))


@dataclass(frozen=True)
class VE:
    """The variance-exploding process on EDM's noise levels (Karras et al. 2022, eq. 5, rho = 7).

    With i = t * steps, sigma(t) = (smin^(1/7) + (i-1)/(steps-1) (smax^(1/7) - smin^(1/7)))^7 for i >= 1, so that the
    steps of a sampler are the grid's points, and sigma(0) = 0; between them sigma grows linearly.
    """

    steps: int = 40
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    name: str = "ve"

    @property
    def key(self) -> dict[str, object]:
        """Name, number of noise levels and their range."""
        return {"name": self.name, "steps": self.steps, "sigma": [self.sigma_min, self.sigma_max]}

    @property
    def prior_std(self) -> float:
        """The largest sigma: the data's own spread is nothing beside it."""
        return self.sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale, 1 everywhere."""
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at t."""
        low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
        index = t.double() * self.steps
        root = low + (index.clamp(min=1.0) - 1) / max(1, self.steps - 1) * (high - low)
        return torch.pow(root, 7) * index.clamp(max=1.0)

    def time(self, sigma: Tensor) -> Tensor:
        """Time of a noise level in [sigma_min, sigma_max], the inverse of ``sigma``."""
        low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
        index = 1 + (torch.pow(sigma.double(), 1 / 7) - low) / (high - low) * (self.steps - 1)
        fraction: Tensor = index / self.steps
        return fraction

    def log_snr(self, t: Tensor) -> Tensor:
        """-2 ln sigma at t; infinite at t = 0."""
        return -2 * torch.log(self.sigma(t))

    def scales(self, t: Tensor, s: Tensor) -> Scales:
        """Return what a step from t to s needs; cross is sigma(t) - sigma(s)."""
        sigma_t, sigma_s = self.sigma(t), self.sigma(s)
        return Scales(sigma_t, sigma_s, sigma_t - sigma_s)


PROCESSES: dict[str, Callable[[int], Process]] = {"vp": lambda steps: VP(), "ve": VE}
"""Processes by name, each made for a time grid of so many steps."""
