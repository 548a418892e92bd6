"""TRACT (Berthelot et al. 2023, arXiv 2303.04248): transitive closure time-distillation of a VP teacher."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from tractbench.diffusion.processes import per_sample
from tractbench.diffusion.solvers import ddim_inverse, ddim_step
from tractbench.method import Batch, Method, Nets, Phase, Schedule, Target, loss_weight


class TRACT(Method):
    """One teacher step, then the self-teacher's jump to the group's end; the student learns both as one step."""

    name: ClassVar[str] = "tract"
    summary: ClassVar[str] = "transitive closure time-distillation of a VP teacher (arXiv 2303.04248)"
    self_teacher: ClassVar[bool] = True

    clip_target: bool = Field(True, description="clip x0 of teacher and self-teacher to [-1, 1] while building targets")
    loss_weight: Literal["truncated_snr", "snr", "uniform"] = Field(
        "truncated_snr", description="weight of the x0 loss: max(SNR, 1), SNR or 1"
    )

    def default_schedule(self, nfe: int) -> Schedule:
        """(1024, 32, nfe): the paper's best."""
        return (*(s for s in (1024, 32) if s > nfe), nfe)

    def target(self, batch: Batch, phase: Phase, progress: float, nets: Nets) -> Target:
        """Return the x0 for which one DDIM step from x_t lands where teacher and self-teacher do."""
        process, x_t, times, labels = batch.process, batch.x_t, batch.times, batch.labels
        limit = 1.0 if self.clip_target else float("inf")
        weight = loss_weight(process, times.t, self.loss_weight)

        x0 = nets.teacher(x_t, times.t, labels).clamp(-limit, limit)
        if phase.group == 1:
            return Target(x0, weight)
        x_next = ddim_step(process, x_t, x0, times.t, times.t_next)
        x0_next = nets.self_teacher(x_next, times.t_next, labels).clamp(-limit, limit)
        x_jump = ddim_step(process, x_next, x0_next, times.t_next, times.t_end)
        x_end = torch.where(per_sample(times.t_next == times.t_end, x_t), x_next, x_jump)

        x0_target = ddim_inverse(process, x_t, x_end, times.t, times.t_end)
        return Target(x0_target, weight)
