"""Multistep consistency distillation (Heek et al. 2024, arXiv 2403.06807, algorithms 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tractbench.diffusion.processes import Process, per_sample
from tractbench.diffusion.solvers import ddim_inverse, ddim_step
from tractbench.method import Batch, Method, Nets, Phase, Schedule, Target, Times, loss_weight


class MSCD(Method):
    """One teacher step, ever shorter, then the student's own jump to the end of its segment of the path."""

    name: ClassVar[str] = "mscd"
    summary: ClassVar[str] = "multistep consistency distillation of a VP teacher (Heek et al. 2024)"
    defaults: ClassVar[Mapping[str, object]] = {"lr": 2e-4}

    first_steps: int = Field(64, ge=1, description="teacher steps over the whole path when training starts")
    growth: float = Field(
        0.5, ge=0, le=1, description="share of a phase over which they grow, geometrically, to the schedule's entry"
    )
    adjustment: float = Field(
        0.0,
        ge=0,
        le=10,
        description="eta of adjusted DDIM: share of the teacher's squared error that its step makes up for",
    )
    clip_target: bool = Field(False, description="clip x0 of teacher and student to [-1, 1] while building targets")
    loss_weight: Literal["v", "v_norm", "truncated_snr", "snr", "uniform"] = Field(
        "v_norm",
        description="weight of the x0 loss: SNR + 1 (the paper's), its square root, max(SNR, 1), SNR or 1",
    )

    def default_schedule(self, nfe: int) -> Schedule:
        """(1024, nfe): one phase; nfe is the number of segments."""
        return (1024, nfe)

    def times(self, u: Tensor, phase: Phase, progress: float, process: Process) -> Times:
        """Draw t uniformly from (0, 1]; its segment ends at t_end, and the teacher steps to max(t - 1/N, t_end)."""
        t = 1 - u[:, 0]
        t_end = (torch.ceil(t * phase.end) - 1) / phase.end
        grown = min(1.0, progress / self.growth) if self.growth else 1.0
        first = min(self.first_steps, phase.start)
        steps = math.exp((1 - grown) * math.log(first) + grown * math.log(phase.start))  # N of section 3.2
        return Times(t=t, t_next=torch.maximum(t - 1 / steps, t_end), t_end=t_end)

    def target(self, batch: Batch, phase: Phase, progress: float, nets: Nets) -> Target:
        """Return the x0 for which one DDIM step from z_t lands where teacher and student do (algorithm 1)."""
        process, z_t, times, labels = batch.process, batch.x_t, batch.times, batch.labels
        limit = 1.0 if self.clip_target else float("inf")
        weight = self.weight(process, times.t)
        x0 = nets.teacher(z_t, times.t, labels).clamp(-limit, limit)
        if phase.group == 1:
            return Target(x0, weight)
        z_s = ddim_step(process, z_t, x0, times.t, times.t_next)
        if self.adjustment:
            z_s = adjusted(batch, x0, z_s, self.adjustment)
        x_s = nets.frozen(z_s, times.t_next, labels).clamp(-limit, limit)
        z_jump = ddim_step(process, z_s, x_s, times.t_next, times.t_end)
        z_end = torch.where(per_sample(times.t_next == times.t_end, z_t), z_s, z_jump)
        return Target(ddim_inverse(process, z_t, z_end, times.t, times.t_end), weight)

    def weight(self, process: Process, t: Tensor) -> Tensor:
        """Return the loss weight ``[B]``; |v - v'| is |x - x'| times ``v_norm``, and the distance is not squared."""
        if self.loss_weight in ("v", "v_norm"):
            v = 1 + torch.exp(process.log_snr(t))
            return v if self.loss_weight == "v" else v.sqrt()
        return loss_weight(process, t, self.loss_weight)

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return sqrt(|d|^2 / D + 1e-8), ``[B]`` (section 3.2)."""
        return ((prediction - target).square().flatten(1).mean(1) + 1e-4**2).sqrt()


def adjusted(batch: Batch, x0: Tensor, z_s: Tensor, eta: float) -> Tensor:
    """Return a DDIM step's end with the variance that averaging over x0 loses (aDDIM, section 3.3).

    The step moves x0 by k = alpha_s - alpha_t sigma_s / sigma_t; so the squared norm of its noise, sigma_s eps^, grows
    by k^2 eta |x - x0|^2, x being the clean image that z_t was made from.

    Args:
        batch: the examples.
        x0: the teacher's prediction at (z_t, t), ``[B, C, H, W]``.
        z_s: where its DDIM step leads, same shape.
        eta: the share of the squared error.
    """
    process, t, s = batch.process, batch.times.t, batch.times.t_next
    sigma_t, _, cross = process.scales(t, s)
    noise = z_s - per_sample(process.alpha(s), z_s) * x0  # sigma_s eps^
    lost = eta * (cross / sigma_t) ** 2 * (batch.x0 - x0).square().flatten(1).sum(1)
    growth = (1 + lost / noise.square().flatten(1).sum(1)).sqrt()
    return z_s + per_sample(growth - 1, z_s) * noise
