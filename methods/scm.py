"""Continuous-time consistency distillation (Lu & Song 2024, arXiv 2410.11081, section 4 and algorithm 1).

TrigFlow's x = cos(t) x0 + sin(t) z with z ~ N(0, sigma_data^2) is EDM's path in other coordinates: its angle is
atan(sigma / sigma_data), its state cos(angle) x_sigma, and D = cos(angle) x - sin(angle) sigma_data F, so that the
teacher's network is the student's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tractbench.consistency import consistency_sampler, derivative_along, log_normal_levels, regression
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.preconditioning import SIGMA_DATA
from tractbench.diffusion.processes import Process, per_sample
from tractbench.diffusion.sampler import Sampler
from tractbench.method import Batch, Method, Nets, Phase, Schedule, Times
from tractbench.nets.embedding import sinusoidal


class SCM(Method):
    """The student follows the tangent of its own consistency function along the teacher's path, without time steps."""

    name: ClassVar[str] = "scm"
    summary: ClassVar[str] = "continuous-time consistency distillation of a VE teacher (Lu & Song 2024)"
    processes: ClassVar[tuple[str, ...]] = ("ve",)
    continuous: ClassVar[bool] = True
    any_nfe: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, object]] = {"lr": 2e-4}
    sampling_options: ClassVar[frozenset[str]] = frozenset({"levels"})

    velocity: Literal["teacher", "data"] = Field(
        "teacher", description="dx/dt: the teacher's (distillation), or cos(t) z - sin(t) x0 (training)"
    )
    noise_mean: float = Field(0.0, ge=-10, le=10, description="mean of ln(sigma_data tan t) = ln sigma in training")
    noise_std: float = Field(
        2.0, gt=0, le=4, description="standard deviation of ln sigma; the paper's -1 and 1.4 hardly reach sigma_max"
    )
    warmup_share: float = Field(
        0.1, ge=0, le=1, description="share of a phase over which the tangent's unstable terms come in"
    )
    difference: float = Field(
        0.2,
        ge=0,
        le=1,
        description="0: the network's exact derivative, as in the paper; else, a departure from it, a difference over "
        "this step of ln sigma",
        json_schema_extra={"exact": 0.0},
    )
    tangent: Literal["normalise", "clip"] = Field(
        "normalise", description="limit the tangent: g / (|g| + 0.1), or its entries to [-1, 1]"
    )
    weighting: Literal["learnt", "none"] = Field(
        "learnt", description="adaptive weight exp(u(t)) with a small network u, or none"
    )
    levels: tuple[float, ...] = Field(
        (), description="noise levels that the second and later evaluations start from; () for 0.982 and around it"
    )

    def default_schedule(self, nfe: int) -> Schedule:
        """(40, 1): training knows no steps; the teacher is sampled in 40."""
        return (40, 1)

    def sampler(self, nfe: int, process: Process) -> Sampler:
        """Return algorithm 1 of Song et al. 2023; two evaluations start from sigma_max and angle 1.1."""
        middle = float(SIGMA_DATA * torch.tan(torch.tensor(1.1, dtype=torch.float64)))
        return consistency_sampler(process, nfe, self.levels, middle)

    def teacher_sampler(self) -> str:
        """Heun: the student tends to the ODE's solution itself."""
        return "heun"

    def modules(self, shape: tuple[int, int, int]) -> Mapping[str, nn.Module]:
        """Return u(t) of the adaptive weighting."""
        return {"weighting": Weighting()} if self.weighting == "learnt" else {}

    def times(self, u: Tensor, phase: Phase, progress: float, process: Process) -> Times:
        """Draw ln sigma ~ N(mean, std^2), no lower than what the teacher's network knows."""
        ends = process.sigma_max, process.network_sigma_min
        t = process.time(log_normal_levels(u[:, 0], self.noise_mean, self.noise_std, *ends))
        return Times(t=t, t_next=t, t_end=torch.zeros_like(t))

    def objective(self, batch: Batch, phase: Phase, progress: float, nets: Nets, student: Denoiser) -> Tensor:
        """Return exp(u) |F - F- - g|^2 / D - u, ``[B]`` (eq. 8), or a repeating phase's loss."""
        if phase.group == 1:
            return regression(batch, nets, student)
        warmed = min(1.0, progress / self.warmup_share) if self.warmup_share else 1.0
        angle = torch.atan(batch.process.sigma(batch.times.t) / SIGMA_DATA)
        with torch.no_grad():
            frozen, g = self.tangent_of(batch, nets, warmed)
            norm = per_sample(g.flatten(1).norm(dim=1), g)
            g = g / (norm + 0.1) if self.tangent == "normalise" else g.clamp(-1, 1)  # section 4.2
        x = per_sample(torch.cos(angle), batch.x_t) * batch.x_t
        raw = raw_output(x, angle, student(batch.x_t, batch.times.t, batch.labels))
        error = (raw - frozen - g).square().flatten(1).mean(1)
        if self.weighting == "none":
            return error
        u: Tensor = nets.modules["weighting"](angle)
        return torch.exp(u) * error - u

    def tangent_of(self, batch: Batch, nets: Nets, warmed: float) -> tuple[Tensor, Tensor]:
        """Return F- and g = cos(t) df-/dt, whose terms without cos^2(t) count by ``warmed``, before it is limited.

        g = -cos^2(t) (sd F- - dx/dt) - w cos(t) sin(t) (x + sd dF-/dt) (eq. 6, section 4.1). The derivative of
        F- comes times cos(t) sin(t) at once, as its direction is scaled so: nothing grows towards t = pi / 2. It is
        exact, or a difference that does not see how fast a network's noise embedding turns.
        """
        process, labels = batch.process, batch.labels
        angle = torch.atan(process.sigma(batch.times.t) / SIGMA_DATA)
        cos, sin = (per_sample(value, batch.x_t) for value in (torch.cos(angle), torch.sin(angle)))
        x = cos * batch.x_t
        if self.velocity == "teacher":
            velocity = SIGMA_DATA * raw_output(x, angle, nets.teacher(batch.x_t, batch.times.t, labels))
        else:
            velocity = cos * SIGMA_DATA * batch.noise - sin * batch.x0
        network = in_trigflow(nets.frozen, process, labels)
        if self.difference:  # d(angle)/d(ln sigma) is cos(t) sin(t)
            earlier = torch.atan(torch.tan(angle) * math.exp(-self.difference))
            x_earlier = x - per_sample(angle - earlier, x) * velocity
            frozen = network(x, angle)
            slope = (frozen - network(x_earlier, earlier)) / self.difference
        else:
            direction = cos * sin * velocity, angle.cos() * angle.sin()
            frozen, slope = derivative_along(network, x, angle, *direction)
        g = -(cos**2) * (SIGMA_DATA * frozen - velocity) - warmed * (cos * sin * x + SIGMA_DATA * slope)
        return frozen, g


def raw_output(x: Tensor, angle: Tensor, x0: Tensor) -> Tensor:
    """Return F = (cos(t) x - D) / (sigma_data sin(t)) of TrigFlow's state ``x`` and an angle t ``[B]``."""
    return (per_sample(torch.cos(angle), x) * x - x0) / (SIGMA_DATA * per_sample(torch.sin(angle), x))


def in_trigflow(denoiser: Denoiser, process: Process, labels: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Return F as a function of TrigFlow's state ``[B, C, H, W]`` and angle ``[B]``, for a derivative along both."""

    def network(x: Tensor, angle: Tensor) -> Tensor:
        t = process.time(SIGMA_DATA * torch.tan(angle))
        return raw_output(x, angle, denoiser(x / per_sample(torch.cos(angle), x), t, labels))

    return network


class Weighting(nn.Module):
    """u(t), linear in a sinusoidal embedding of the angle, from 0 on (Karras et al. 2024, section 3.3)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, angle: Tensor) -> Tensor:
        """Return u ``[B]`` at angles ``[B]`` in [0, pi / 2]."""
        features = sinusoidal(1000 / (torch.pi / 2) * angle.to(self.weight.dtype), len(self.weight))
        return features @ self.weight + self.bias
