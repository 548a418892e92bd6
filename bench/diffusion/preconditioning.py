"""Preconditionings that make a raw network F a denoiser D = c_skip x + c_out F(c_in x; c_noise) (EDM, table 1).

They know noise levels sigma of x = y + sigma n only, and no time: EDM is Karras et al. 2022, VPLinear and VESong are
for the networks of Song et al. 2021, IDDPM for those of Nichol & Dhariwal 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

SIGMA_DATA = 0.5
"""EDM's standard deviation of images in [-1, 1]."""


class Coefficients(NamedTuple):
    """c_skip, c_out, c_in and c_noise, each of sigma's shape."""

    skip: Tensor
    out: Tensor
    scale: Tensor
    noise: Tensor


class Scheme(Protocol):
    """A preconditioning; tensors of sigma may have any shape and floating dtype, which the results share."""

    @property
    def sigma_min(self) -> float:
        """Smallest noise level that the network was made for."""

    @property
    def sigma_max(self) -> float:
        """Largest noise level that the network was made for."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the four coefficients at ``sigma``."""


@dataclass(frozen=True)
class EDM:
    """EDM's own preconditioning, which gives F unit variance of input and target at every sigma."""

    sigma_data: float = SIGMA_DATA
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the four coefficients at ``sigma``."""
        total = sigma**2 + self.sigma_data**2
        out = sigma * self.sigma_data / total.sqrt()
        return Coefficients(self.sigma_data**2 / total, out, 1 / total.sqrt(), sigma.log() / 4)


@dataclass(frozen=True)
class VPLinear:
    """Preconditioning of networks trained on the variance-preserving process with linear beta."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    steps: int = 1000
    epsilon_t: float = 1e-5

    @property
    def sigma_min(self) -> float:
        """Noise level at time epsilon_t."""
        return float(self.sigma(torch.tensor(self.epsilon_t, dtype=torch.float64)))

    @property
    def sigma_max(self) -> float:
        """Noise level at time 1."""
        return float(self.sigma(torch.tensor(1.0, dtype=torch.float64)))

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at time t in [0, 1]."""
        return (self.beta_d * t**2 / 2 + self.beta_min * t).expm1().sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """Time of a noise level, the inverse of ``sigma``."""
        root = (self.beta_min**2 + 2 * self.beta_d * (sigma**2).log1p()).sqrt()
        return (root - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the four coefficients at ``sigma``."""
        noise = (self.steps - 1) * self.time(sigma)
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), noise)


@dataclass(frozen=True)
class VESong:
    """Preconditioning of networks trained on the variance-exploding process."""

    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the four coefficients at ``sigma``."""
        return Coefficients(torch.ones_like(sigma), sigma, torch.ones_like(sigma), (sigma / 2).log())


def iddpm_levels(steps: int = 1000, c1: float = 0.001, c2: float = 0.008) -> Tensor:
    """Return iDDPM's decreasing noise levels u_0 .. u_steps = 0, float64 ``[steps + 1]``.

    u_j^2 = abar_steps / abar_j - 1, where one step multiplies u^2 + 1 by at most 1 / c1; that acts on u_0 alone.
    """
    angle = torch.arange(1, steps + 1, dtype=torch.float64) * (math.pi / 2 / steps / (1 + c2))
    abar = angle.sin() ** 2  # of j = 1 .. steps
    growth = abar[-1] / abar  # u_j^2 + 1
    return (torch.cat([growth[:1] / c1, growth]) - 1).sqrt()


@dataclass(frozen=True, eq=False)
class IDDPM:
    """Preconditioning of networks trained on iDDPM's discrete cosine schedule.

    Attributes:
        u: noise levels in decreasing order, ``[M + 1]``; those of a checkpoint where there are any, as the reference's
            are rounded.
    """

    u: Tensor = field(default_factory=iddpm_levels)

    @property
    def sigma_min(self) -> float:
        """The smallest level but 0."""
        return float(self.u[-2])

    @property
    def sigma_max(self) -> float:
        """The largest level."""
        return float(self.u[0])

    def index(self, sigma: Tensor) -> Tensor:
        """Return the index of the nearest level, the lower of two equally near."""
        return (sigma[..., None] - self.u.to(sigma)).abs().argmin(dim=-1)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the four coefficients at ``sigma``; c_noise is a whole number, -1 at sigma = 0."""
        noise = (len(self.u) - 2 - self.index(sigma)).to(sigma.dtype)
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), noise)


SCHEMES: dict[str, Callable[..., Scheme]] = {"edm": EDM, "vp_linear": VPLinear, "ve_song": VESong, "iddpm": IDDPM}
"""Preconditionings by the name that cards use."""
