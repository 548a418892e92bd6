"""Diffusion processes: x_t = alpha(t) x_0 + sigma(t) eps for a time t in [0, 1].

Times are float64 tensors ``[B]``, or of any shape; t = 0 is the clean end and t = 1 pure noise. A sampler of S steps
visits t = 1, (S-1)/S, ..., 0, so a step index i of S is the exact quotient i/S.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from tractbench.diffusion.preconditioning import IDDPM, SCHEMES, SIGMA_DATA
from tractbench.errors import ConfigError, nearest_name
from tractbench.plugins import components, load_class


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


class Process(ABC):
    """A Gaussian diffusion process; every method maps times to float64 of the same shape.

    Class attributes:
        name: the value of ``--process`` that chooses it.
        default_steps: steps of its teachers' time grid where nobody says otherwise.
        solvers: the solvers that its teachers are sampled with, the usual one first.
        parameterisations: ways in which networks denoise it, the usual one first; each belongs to one process.
        data_scale: standard deviation of the data that its signal-to-noise ratios are told in, where a loss weighs by
            them.
    """

    name: ClassVar[str]
    default_steps: ClassVar[int]
    solvers: ClassVar[tuple[str, ...]]
    parameterisations: ClassVar[tuple[str, ...]]
    data_scale: ClassVar[float]

    @classmethod
    @abstractmethod
    def on_grid(cls, steps: int) -> Self:
        """Return the process for a time grid of so many steps."""

    @property
    @abstractmethod
    def key(self) -> dict[str, object]:
        """All that decides what the process computes, as JSON values; identities are made of it."""

    @property
    def continuous(self) -> bool:
        """Whether sigma / alpha takes every value between its ends as t goes from 0 to 1."""
        return True

    @property
    def network_sigma_min(self) -> float:
        """Smallest noise-to-signal ratio that the teacher's network was made for; 0 where it has none."""
        return 0.0

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the noise that sampling starts from."""

    @property
    @abstractmethod
    def sigma_min(self) -> float:
        """Smallest noise-to-signal ratio sigma / alpha above t = 0 that a sampler on the grid meets."""

    @property
    @abstractmethod
    def sigma_max(self) -> float:
        """Largest noise-to-signal ratio sigma / alpha, that of t = 1."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at t."""

    @abstractmethod
    def time(self, ratio: Tensor) -> Tensor:
        """Time at which sigma / alpha is ``ratio``, from that of t = 0 to ``sigma_max``."""

    @abstractmethod
    def log_snr(self, t: Tensor) -> Tensor:
        """ln(alpha^2 / sigma^2) at t."""

    @abstractmethod
    def scales(self, t: Tensor, s: Tensor) -> Scales:
        """Return what a step from t to s needs."""


@dataclass(frozen=True, kw_only=True)
class VP(Process):
    """The variance-preserving process with a cosine schedule, logSNR from +20 to -20 (TRACT, appendix; iDDPM).

    It is a rotation: alpha = cos(phi), sigma = sin(phi) with phi(t) = a t + b. This form cancels nowhere, where
    1 - alpha^2 would near t = 0, and sigma is never 0. It is continuous: a grid of T steps only says how finely its
    teacher is sampled.
    """

    name: ClassVar[str] = "vp"
    default_steps: ClassVar[int] = 1024
    solvers: ClassVar[tuple[str, ...]] = ("ddim",)
    parameterisations: ClassVar[tuple[str, ...]] = ("x0", "both")
    data_scale: ClassVar[float] = 1.0

    log_snr_max: float = 20.0
    log_snr_min: float = -20.0

    @classmethod
    def on_grid(cls, steps: int) -> Self:
        """Return the process, the same for any grid."""
        return cls()

    @property
    def key(self) -> dict[str, object]:
        """Name and range of logSNR; no number of steps, on which nothing here depends."""
        return {"name": self.name, "log_snr_max": self.log_snr_max, "log_snr_min": self.log_snr_min}

    @property
    def prior_std(self) -> float:
        """1: the variance is preserved."""
        return 1.0

    @property
    def sigma_min(self) -> float:
        """Sigma / alpha at t = 0, e^(-log_snr_max / 2)."""
        return math.exp(-self.log_snr_max / 2)

    @property
    def sigma_max(self) -> float:
        """Sigma / alpha at t = 1, e^(-log_snr_min / 2)."""
        return math.exp(-self.log_snr_min / 2)

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

    def time(self, ratio: Tensor) -> Tensor:
        """Time at which tan(phi) is ``ratio``."""
        return (torch.atan(ratio.double()) - self._start) / self._turn

    def log_snr(self, t: Tensor) -> Tensor:
        """ln(alpha^2 / sigma^2) = -2 ln tan(phi) at t."""
        return -2 * torch.log(torch.tan(self.phi(t)))

    def scales(self, t: Tensor, s: Tensor) -> Scales:
        """Return what a step from t to s needs; cross is sin(phi(t) - phi(s))."""
        return Scales(self.sigma(t), self.sigma(s), torch.sin(self._turn * (t.double() - s.double())))


@dataclass(frozen=True)
class VE(Process):
    """The variance-exploding process on EDM's noise levels (Karras et al. 2022, eq. 5, rho = 7).

    With i = t * steps, sigma(t) = (smin^(1/7) + (i-1)/(steps-1) (smax^(1/7) - smin^(1/7)))^7 for i >= 1, so that the
    steps of a sampler are the grid's points, and sigma(0) = 0; between them sigma grows linearly.

    Attributes:
        steps: noise levels above 0.
        sigma_min: the least of them.
        sigma_max: the largest.
        rounding: ``iddpm`` takes iDDPM's nearest level for each, as EDM's sampler does for networks of these only.
        network_sigma_min: the least level that the teacher's network was made for, which may be below the grid's; 0 if
            it has none.
    """

    name: ClassVar[str] = "ve"
    default_steps: ClassVar[int] = 40
    solvers: ClassVar[tuple[str, ...]] = ("ddim", "heun")
    parameterisations: ClassVar[tuple[str, ...]] = tuple(SCHEMES)
    data_scale: ClassVar[float] = SIGMA_DATA

    steps: int = default_steps
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rounding: Literal["", "iddpm"] = ""
    network_sigma_min: float = 0.0

    @classmethod
    def on_grid(cls, steps: int) -> Self:
        """Return the process whose noise levels are a grid of so many steps."""
        return cls(steps)

    @property
    def key(self) -> dict[str, object]:
        """Name, number of noise levels, their ends, how they are rounded and the network's least, if there is one."""
        ends = {"name": self.name, "steps": self.steps, "sigma_min": self.sigma_min, "sigma_max": self.sigma_max}
        more = {"rounding": self.rounding, "network_sigma_min": self.network_sigma_min}
        return ends | {name: value for name, value in more.items() if value}

    @property
    def continuous(self) -> bool:
        """False where levels are rounded."""
        return not self.rounding

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
        sigma = torch.pow(root, 7)
        if self.rounding:
            levels = IDDPM()
            sigma = levels.u.to(sigma)[levels.index(sigma)]
        return sigma * index.clamp(max=1.0)

    def time(self, ratio: Tensor) -> Tensor:
        """Time of a noise level in [0, sigma_max]: the inverse of ``sigma`` before rounding, linear below sigma_min."""
        low, high = self.sigma_min ** (1 / 7), self.sigma_max ** (1 / 7)
        above = 1 + (torch.pow(ratio.double(), 1 / 7) - low) / (high - low) * (self.steps - 1)
        below = ratio.double() / self.sigma_min
        return torch.where(below < 1, below, above) / self.steps

    def log_snr(self, t: Tensor) -> Tensor:
        """-2 ln sigma at t; infinite at t = 0."""
        return -2 * torch.log(self.sigma(t))

    def scales(self, t: Tensor, s: Tensor) -> Scales:
        """Return what a step from t to s needs; cross is sigma(t) - sigma(s)."""
        sigma_t, sigma_s = self.sigma(t), self.sigma(s)
        return Scales(sigma_t, sigma_s, sigma_t - sigma_s)


def process_class(name: str) -> type[Process]:
    """Return a process's class by its name.

    Raises:
        ConfigError: there is none of that name, the message has the nearest one, or it cannot be loaded.
    """
    found: type[Process] = load_class("processes", name, Process)  # type: ignore[type-abstract]
    return found


def load_process(name: str, steps: int | None = None) -> Process:
    """Return a process on a time grid of ``steps`` steps, or of its default.

    Raises:
        ConfigError: there is none of that name; the message has the nearest one.
    """
    kind = process_class(name)
    return kind.on_grid(kind.default_steps if steps is None else steps)


def process_of(parameterisation: str) -> type[Process]:
    """Return the process whose networks have a parameterisation, a built-in one before others.

    Raises:
        ConfigError: no process has it; the message has the nearest one.
    """
    known: list[str] = []
    for name in components("processes"):
        try:
            process = process_class(name)
        except ConfigError:  # of a broken plugin, which nobody asked for
            continue
        if parameterisation in process.parameterisations:
            return process
        known += process.parameterisations
    raise ConfigError(f"unknown parameterisation {parameterisation!r}{nearest_name(parameterisation, known)}")
