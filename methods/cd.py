"""Consistency distillation (Song et al. 2023, arXiv 2303.01469, algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tractbench.consistency import consistency_sampler, pseudo_huber, regression
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.preconditioning import SIGMA_DATA
from tractbench.diffusion.processes import VE, Process, per_sample
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import ddim_step, heun_step
from tractbench.errors import ConfigError
from tractbench.method import Batch, Method, Nets, Phase, Schedule, Target, Times
from tractbench.nets.distances import PublishedDistance
from tractbench.nets.perceptual import PublishedLPIPS


class CD(Method):
    """The student's outputs at both ends of a teacher's step are drawn together; at sigma_min it is the identity."""

    name: ClassVar[str] = "cd"
    summary: ClassVar[str] = "consistency distillation of a VE teacher (Song et al. 2023)"
    processes: ClassVar[tuple[str, ...]] = ("ve",)
    self_teacher: ClassVar[bool] = True
    any_nfe: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, object]] = {
        "mu_s": 0.0,
        "gradients": "replace_nonfinite",
        "optimiser": "radam",
        "lr": 1e-3,
    }
    sampling_options: ClassVar[frozenset[str]] = frozenset({"levels"})

    metric: Literal["l2", "pseudo_huber", "lpips", "lpips_average"] = Field(
        "pseudo_huber",
        description="distance: squared L2; sqrt(|d|^2 + c^2) - c with c = 0.00054 sqrt(pixels); LPIPS of VGG-16 at "
        "224 x 224; or that with average pooling, as the paper's release",
    )
    teacher_step: Literal["heun", "ddim"] = Field(
        "heun", description="the teacher's step: heun, two evaluations, or ddim, one"
    )
    levels: tuple[float, ...] = Field(
        (), description="noise levels that the second and later evaluations start from; () for a geometric sequence"
    )

    def default_schedule(self, nfe: int) -> Schedule:
        """(40, 1): EDM's 40 noise levels, for any NFE."""
        return (40, 1)

    def sampler(self, nfe: int, process: Process) -> Sampler:
        """Return algorithm 1: fresh noise between the evaluations, up to levels between sigma_max and sigma_min."""
        return consistency_sampler(process, nfe, self.levels, (process.sigma_max * process.sigma_min) ** 0.5)

    def teacher_sampler(self) -> str:
        """Return the solver of the teacher's step."""
        return self.teacher_step

    def parameterise(self, network: nn.Module, process: Process) -> nn.Module:
        """Return the network with the boundary condition."""
        return BoundedDenoiser(network, process)

    def distances(self, shape: tuple[int, int, int]) -> Mapping[str, PublishedDistance]:
        """Return LPIPS where it is the distance."""
        if not self.metric.startswith("lpips"):
            return {}
        if shape[0] != 3:
            raise ConfigError(
                f"metric={self.metric} takes RGB images, not {shape[0]} channels; use metric=pseudo_huber"
            )
        return {"lpips": PublishedLPIPS(average_pooling=self.metric == "lpips_average")}

    def times(self, u: Tensor, phase: Phase, progress: float, process: Process) -> Times:
        """Draw n uniformly from 1 to N - 1; t is that of sigma_(n+1) and t_next that of sigma_n (eq. 6)."""
        first = 0 if phase.group == 1 else 1  # where steps are repeated the teacher is learnt at sigma_1 too
        n = first + torch.floor(u[:, 0] * (phase.start - first))
        grid = VE(phase.start, process.sigma_min, process.sigma_max)
        t, t_next = (process.time(grid.sigma(index / phase.start)) for index in (n + 1, n))
        return Times(t=t, t_next=t_next, t_end=torch.zeros_like(t))

    def target(self, batch: Batch, phase: Phase, progress: float, nets: Nets) -> Target:
        """Return f-(x^_n, sigma_n), where one step of the teacher leads from x_(n+1) to x^_n (eq. 6, 7)."""
        process, x_t, times, labels = batch.process, batch.x_t, batch.times, batch.labels
        x0 = nets.teacher(x_t, times.t, labels)
        if self.teacher_step == "heun":
            x_next = heun_step(nets.teacher, process, x_t, times.t, times.t_next, labels, x0)
        else:
            x_next = ddim_step(process, x_t, x0, times.t, times.t_next)
        return Target(nets.self_teacher(x_next, times.t_next, labels), torch.ones_like(times.t))  # lambda = 1

    def objective(self, batch: Batch, phase: Phase, progress: float, nets: Nets, student: Denoiser) -> Tensor:
        """Return the consistency loss ``[B]`` (eq. 7), or that of a phase which repeats its steps."""
        if phase.group == 1:
            return regression(batch, nets, student)
        if self.metric.startswith("lpips"):
            target = self.target(batch, phase, progress, nets)
            return nets.distances["lpips"](student(batch.x_t, batch.times.t, batch.labels), target.x0)
        return super().objective(batch, phase, progress, nets, student)

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the chosen distance ``[B]``; Pseudo-Huber is Song & Dhariwal 2023, section 3.3."""
        if self.metric == "l2":
            return super().distance(prediction, target)
        return pseudo_huber(prediction - target, 0.00054 * target[0].numel() ** 0.5)


class BoundedDenoiser(nn.Module):
    """f = c_skip x + c_out F(c_in x; c_noise) with f(x, sigma_min) = x (appendix C), of any VE denoiser.

    EDM's D = s_skip x + s_out F has the same c_in and c_noise, and c_out / s_out = 1 - sigma_min / sigma; so
    f = c_skip x + (1 - sigma_min / sigma)(D - s_skip x).

    Args:
        denoiser: D.
        process: a variance-exploding process.
    """

    def __init__(self, denoiser: nn.Module, process: Process) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.process = process

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return f ``[B, C, H, W]``, float64, as its coefficients are: they cancel near sigma_min."""
        sigma, smallest, variance = self.process.sigma(t), self.process.sigma_min, SIGMA_DATA**2
        c_skip = variance / ((sigma - smallest) ** 2 + variance)
        s_skip = variance / (sigma**2 + variance)
        share = 1 - smallest / sigma
        d = self.denoiser(x_t, t, labels)
        f: Tensor = per_sample(c_skip - share * s_skip, x_t) * x_t + per_sample(share, x_t) * d
        return f
