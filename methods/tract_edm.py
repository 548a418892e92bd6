"""TRACT-EDM (Berthelot et al. 2023, section 4): TRACT for VE teachers with EDM's noise levels and preconditioning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tractbench.diffusion.preconditioning import SIGMA_DATA
from tractbench.diffusion.processes import per_sample
from tractbench.diffusion.solvers import ddim_inverse, ddim_step, heun_step
from tractbench.method import Batch, Method, Nets, Phase, Schedule, Target


class TRACTEDM(Method):
    """One step of the teacher's solver, then the self-teacher's DDIM jump to the group's end."""

    name: ClassVar[str] = "tract_edm"
    summary: ClassVar[str] = "TRACT for VE teachers with EDM preconditioning (arXiv 2303.04248)"
    processes: ClassVar[tuple[str, ...]] = ("ve",)
    self_teacher: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, object]] = {"lr": 1e-3, "gradients": "replace_nonfinite"}

    clip_target: bool = Field(
        True, description="clip x0 to [-1, 1] while building targets; never inside an RK step nor where t' = 0"
    )
    teacher_solver: Literal["rk", "ddim_ve"] = Field(
        "rk", description="the teacher's step: rk (Heun, two evaluations) or ddim_ve (Euler, one)"
    )

    def default_schedule(self, nfe: int) -> Schedule:
        """(40, nfe): one phase from EDM's 40 noise levels."""
        return (40, nfe)

    def teacher_sampler(self) -> str:
        """Return Heun's solver, or DDIM for ``ddim_ve``."""
        return "heun" if self.teacher_solver == "rk" else "ddim"

    def target(self, batch: Batch, phase: Phase, progress: float, nets: Nets) -> Target:
        """Return the x0 for which one DDIM step from x_t lands where the teacher's solver and the self-teacher do."""
        process, x_t, times, labels = batch.process, batch.x_t, batch.times, batch.labels
        limit = 1.0 if self.clip_target else float("inf")
        rk = self.teacher_solver == "rk"
        sigma = process.sigma(times.t)
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2

        unclipped = nets.teacher(x_t, times.t, labels)
        x0 = unclipped.clamp(-limit, limit)
        last = times.t_next == 0  # the target is then the teacher's x0 as it is, clipped or not elsewhere, as released
        if phase.group == 1:
            return Target(torch.where(per_sample(last, x_t), unclipped, x0), weight)
        t_next = torch.where(last, times.t, times.t_next)  # no network is asked at sigma = 0; those rows are replaced
        if rk:
            x_next = heun_step(nets.teacher, process, x_t, times.t, t_next, labels, unclipped)
        else:
            x_next = ddim_step(process, x_t, x0, times.t, t_next)
        x0_next = nets.self_teacher(x_next, t_next, labels).clamp(-limit, limit)
        x_jump = ddim_step(process, x_next, x0_next, t_next, times.t_end)
        x_end = torch.where(per_sample(times.t_next == times.t_end, x_t), x_next, x_jump)
        x0_target = ddim_inverse(process, x_t, x_end, times.t, times.t_end)
        return Target(torch.where(per_sample(last, x_t), unclipped, x0_target), weight)

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Squared L2, mean over pixels; with the weight of the target it is 1 in F-space."""
        return (prediction - target).square().flatten(1).mean(1)
