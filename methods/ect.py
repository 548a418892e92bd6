"""Easy consistency tuning (Geng et al. 2024, arXiv 2406.14548): a diffusion model turns into a consistency model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tractbench.consistency import consistency_sampler, log_normal_levels, pseudo_huber, regression
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process, per_sample
from tractbench.diffusion.sampler import Sampler
from tractbench.method import Batch, Method, Nets, Phase, Schedule, Target, Times

MOST_HALVINGS = 30
"""Gaps 1 - r/t below 2^-30 are lost in rounding: networks take noise levels in float32."""


class ECT(Method):
    """The student at sigma_t is drawn to itself at a smaller sigma_r of the same image and noise, ever nearer."""

    name: ClassVar[str] = "ect"
    summary: ClassVar[str] = "easy consistency tuning of a VE teacher's network (Geng et al. 2024)"
    processes: ClassVar[tuple[str, ...]] = ("ve",)
    continuous: ClassVar[bool] = True
    any_nfe: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, object]] = {"gradients": "replace_nonfinite", "optimiser": "radam", "lr": 5e-4}
    sampling_options: ClassVar[frozenset[str]] = frozenset({"levels"})

    noise_mean: float = Field(-1.1, ge=-10, le=10, description="mean of ln sigma_t in training")
    noise_std: float = Field(2.0, gt=0, le=4, description="standard deviation of ln sigma_t in training")
    q: float = Field(2.0, gt=1, le=1e6, description="factor by which each stage shrinks 1 - r/t")
    stages: int = Field(8, ge=1, description="stages of equal length; the first is nearly diffusion training")
    k: float = Field(8.0, ge=0, description="k of n(t) = 1 + k sigmoid(-b t), which widens the gap at low noise")
    b: float = Field(1.0, ge=0, description="b of n(t)")
    c: float = Field(0.0, ge=0, le=1e6, description="c of the distance sqrt(|d|^2 + c^2) - c; 0 is the L2 norm")
    levels: tuple[float, ...] = Field(
        (), description="noise levels that the second and later evaluations start from; () for 0.821 and around it"
    )

    @model_validator(mode="after")
    def _gaps_can_be_told(self) -> Self:
        if self.stages * math.log2(self.q) > MOST_HALVINGS:
            raise ValueError(
                f"stages {self.stages}, q {self.q:g}: the last gap is less than 2^-{MOST_HALVINGS} of the noise; "
                f"take at most {int(MOST_HALVINGS / math.log2(self.q))} stages"
            )
        return self

    def default_schedule(self, nfe: int) -> Schedule:
        """(40, 1): training knows no steps; the teacher is sampled in 40."""
        return (40, 1)

    def sampler(self, nfe: int, process: Process) -> Sampler:
        """Return algorithm 1 of Song et al. 2023; two evaluations start from sigma_max and 0.821."""
        return consistency_sampler(process, nfe, self.levels, 0.821)

    def teacher_sampler(self) -> str:
        """Heun: the student tends to the ODE's solution itself."""
        return "heun"

    def times(self, u: Tensor, phase: Phase, progress: float, process: Process) -> Times:
        """Draw ln sigma_t ~ N(mean, std^2); t_next is the time of r = t (1 - n(t) / q^(a+1)), or 0 below it."""
        sigma = log_normal_levels(u[:, 0], self.noise_mean, self.noise_std, process.sigma_max)
        stage = int(progress * self.stages)
        n = 1 + self.k * torch.sigmoid(-self.b * sigma)
        r = (sigma * (1 - n / self.q ** (stage + 1))).clamp(min=0)
        t = process.time(sigma)
        return Times(t=t, t_next=process.time(r), t_end=torch.zeros_like(t))

    def target(self, batch: Batch, phase: Phase, progress: float, nets: Nets) -> Target:
        """Return f(x_r, r) of the student as it is, x0 where r = 0, with weight 1 / (t - r) (algorithm 1)."""
        process, times = batch.process, batch.times
        clean = times.t_next == 0
        t_next = torch.where(clean, times.t, times.t_next)  # no network is asked at sigma = 0; those rows are replaced
        x_next = batch.x0 + per_sample(process.sigma(t_next), batch.noise) * batch.noise
        f = torch.where(per_sample(clean, batch.x0), batch.x0, nets.frozen(x_next, t_next, batch.labels))
        return Target(f, 1 / (process.sigma(times.t) - process.sigma(times.t_next)))

    def objective(self, batch: Batch, phase: Phase, progress: float, nets: Nets, student: Denoiser) -> Tensor:
        """Return the tuning loss ``[B]``, or that of a phase which repeats its steps."""
        if phase.group == 1:
            return regression(batch, nets, student)
        return super().objective(batch, phase, progress, nets, student)

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return sqrt(|d|^2 + c^2) - c, ``[B]``."""
        return pseudo_huber(prediction - target, self.c)
