"""BTD: binary time-distillation, known as progressive distillation (Salimans & Ho 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tractbench.diffusion.processes import Process, per_sample
from tractbench.diffusion.solvers import ddim_inverse, ddim_step
from tractbench.errors import ConfigError
from tractbench.method import Batch, Method, Nets, Phase, Schedule, Target, Times, group_times, loss_weight


class BTD(Method):
    """Two teacher steps become one student step; each phase halves the steps, and its student is the next teacher."""

    name: ClassVar[str] = "btd"
    summary: ClassVar[str] = "binary time-distillation, progressive distillation (Salimans & Ho 2022)"
    defaults: ClassVar[Mapping[str, object]] = {
        "phase_start": "from_teacher",
        "lr_schedule": "linear",
        "mu_i": None,  # by the residual, whatever a data set's preset says for TRACT
    }

    clip_target: bool = Field(False, description="clip the teacher's x0 to [-1, 1] while building targets")
    loss_weight: Literal["truncated_snr", "snr", "uniform"] = Field(
        "truncated_snr", description="weight of the x0 loss: max(SNR, 1), SNR or 1"
    )
    final_target: Literal["teacher_x0", "inverse"] = Field(
        "teacher_x0",
        description="target of a jump to t = 0: the teacher's x0 at the middle, or the DDIM inverse as elsewhere",
    )

    def default_schedule(self, nfe: int) -> Schedule:
        """1024 halved down to nfe."""
        entries = [1024]
        while entries[-1] > nfe:
            entries.append(max(nfe, entries[-1] // 2))
        return tuple(entries)

    def phases(self, schedule: Schedule) -> tuple[Phase, ...]:
        """Return the phases; each halves the steps, or repeats them to move into another network."""
        phases = super().phases(schedule)
        for phase in phases:
            if phase.group > 2:
                raise ConfigError(
                    f"schedule {','.join(map(str, schedule))}: btd halves the steps in each phase, "
                    f"{phase.start} cannot become {phase.end}; leave the schedule out, or choose tract"
                )
        return phases

    def times(self, u: Tensor, phase: Phase, progress: float, process: Process) -> Times:
        """Draw jumps that start at the upper end of their group: k = 0."""
        return group_times(torch.stack([u[:, 0], torch.zeros_like(u[:, 1])], dim=1), phase)

    def target(self, batch: Batch, phase: Phase, progress: float, nets: Nets) -> Target:
        """Return the x0 for which one DDIM step from x_t lands where two of the teacher's do."""
        process, x_t, times, labels = batch.process, batch.x_t, batch.times, batch.labels
        limit = 1.0 if self.clip_target else float("inf")
        weight = loss_weight(process, times.t, self.loss_weight)

        x0 = nets.teacher(x_t, times.t, labels).clamp(-limit, limit)
        if phase.group == 1:
            return Target(x0, weight)
        x_next = ddim_step(process, x_t, x0, times.t, times.t_next)
        x0_next = nets.teacher(x_next, times.t_next, labels).clamp(-limit, limit)
        x_end = ddim_step(process, x_next, x0_next, times.t_next, times.t_end)
        x0_target = ddim_inverse(process, x_t, x_end, times.t, times.t_end)
        if self.final_target == "teacher_x0":
            x0_target = torch.where(per_sample(times.t_end == 0, x_t), x0_next, x0_target)
        return Target(x0_target, weight)
