"""MeanFlow (Geng et al. 2025, arXiv 2505.13447): a network of mean velocities, learnt from their own derivative.

The linear path z = (1 - tau) x0 + tau e is the variance-exploding one in other coordinates: tau = sigma / (1 + sigma)
and z = x / (1 + sigma). The student keeps to tractbench's contract and predicts x0; its mean velocity over a jump is
u = (z - x0) / tau, so that z_r = z - (tau - r) u is DDIM's step with that x0. Sampling starts at sigma_max instead of
tau = 1, where the path would have no signal at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tractbench.consistency import derivative_along, regression, standard_normal
from tractbench.diffusion.denoiser import Denoiser, SigmaDenoiser
from tractbench.diffusion.processes import Process, per_sample
from tractbench.diffusion.sampler import Sampler
from tractbench.errors import ConfigError
from tractbench.method import Batch, Method, Nets, Phase, Schedule, Times
from tractbench_meanflow.network import TwoTimeDenoiser


class MeanFlow(Method):
    """The mean velocity over a jump is the velocity at its start minus the jump's length times its own derivative."""

    name: ClassVar[str] = "meanflow"
    summary: ClassVar[str] = "mean velocities learnt from the MeanFlow identity, on a VE teacher (Geng et al. 2025)"
    processes: ClassVar[tuple[str, ...]] = ("ve",)
    draws: ClassVar[int] = 3
    two_times: ClassVar[bool] = True
    any_nfe: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, object]] = {"gradients": "replace_nonfinite", "lr": 1e-3}

    velocity: Literal["teacher", "data"] = Field(
        "teacher", description="v: the teacher's (distillation), or e - x0 of the example (training)"
    )
    jumps: float = Field(0.75, ge=0, le=1, description="share of examples with r < t; the others learn v itself")
    time_mean: float = Field(0.0, description="mean of logit(t) and logit(r) in training")
    time_std: float = Field(
        2.0, gt=0, description="standard deviation of both; the paper's -0.4 and 1 hardly reach sigma_max"
    )
    power: float = Field(0.75, ge=0, description="p of the loss weight 1 / (|d|^2 + c)^p; 0.75 CIFAR-10, 1 ImageNet")
    c: float = Field(1e-3, gt=0, description="c of the loss weight")

    def default_schedule(self, nfe: int) -> Schedule:
        """(40, 1): training knows no steps; the teacher is sampled in 40."""
        return (40, 1)

    def sampler(self, nfe: int, process: Process) -> Sampler:
        """Return equal jumps of the linear path's time tau (algorithm 2 and section 4.3)."""
        largest = process.sigma_max / (1 + process.sigma_max)
        tau = torch.arange(nfe - 1, 0, -1, dtype=torch.float64) * (largest / nfe)
        return Sampler(times=(1.0, *process.time(tau / (1 - tau)).tolist(), 0.0))

    def teacher_sampler(self) -> str:
        """Heun: the student tends to the ODE's solution itself."""
        return "heun"

    def parameterise(self, network: nn.Module, process: Process) -> nn.Module:
        """Return the network with an embedding of the jump's end.

        Raises:
            ConfigError: the teacher is no preconditioned network.
        """
        if not isinstance(network, SigmaDenoiser):
            raise ConfigError("meanflow needs a VE teacher's network with a preconditioning; choose another --teacher")
        return TwoTimeDenoiser(network, process)

    def times(self, u: Tensor, phase: Phase, progress: float, process: Process) -> Times:
        """Draw two logit-normal times and sort them; r = t but for the share of jumps (section 4.3)."""
        largest = process.sigma_max / (1 + process.sigma_max)
        drawn = torch.sigmoid(self.time_mean + self.time_std * standard_normal(u[:, :2])).clamp(max=largest)
        tau, r = drawn.amax(1), drawn.amin(1)
        jumps = 0.0 if phase.group == 1 else self.jumps
        r = torch.where(u[:, 2] < jumps, r, tau)
        t, t_end = process.time(tau / (1 - tau)), process.time(r / (1 - r))
        return Times(t=t, t_next=t, t_end=torch.where(r == tau, t, t_end))

    def objective(self, batch: Batch, phase: Phase, progress: float, nets: Nets, student: Denoiser) -> Tensor:
        """Return |u - u_tgt|^2 with its weight 1 / (|.|^2 + c)^p, ``[B]`` (eq. 9 to 11 and section 4.3)."""
        if phase.group == 1:
            return regression(batch, nets, student)
        times = batch.times
        with torch.no_grad():
            target = self.mean_velocity(batch, nets)
        z, tau = to_linear(batch)
        u = (z - student(batch.x_t, times.t, batch.labels, times.t_end)) / per_sample(tau, z)
        error = (u - target).square().flatten(1).sum(1)
        return error / (error.detach() + self.c) ** self.power

    def mean_velocity(self, batch: Batch, nets: Nets) -> Tensor:
        """Return u_tgt = v - (tau - r) (v . grad_z u + du/dtau), ``[B, C, H, W]`` (eq. 10): the derivative along v."""
        process, times, labels = batch.process, batch.times, batch.labels
        z, tau = to_linear(batch)
        if self.velocity == "teacher":
            v = (z - nets.teacher(batch.x_t, times.t, labels)) / per_sample(tau, z)
        else:
            v = (batch.noise - batch.x0).to(z.dtype)

        def mean(z: Tensor, tau: Tensor) -> Tensor:
            t = process.time(tau / (1 - tau))
            return (z - nets.frozen(z / per_sample(1 - tau, z), t, labels, times.t_end)) / per_sample(tau, z)

        _, slope = derivative_along(mean, z, tau, v, torch.ones_like(tau))
        r = process.sigma(times.t_end) / (1 + process.sigma(times.t_end))
        length = torch.where(times.t_end == times.t, torch.zeros_like(tau), tau - r)
        return v - per_sample(length, z) * slope


def to_linear(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the linear path's state z ``[B, C, H, W]`` and time tau ``[B]`` of a batch."""
    sigma = batch.process.sigma(batch.times.t)
    return batch.x_t / per_sample(1 + sigma, batch.x_t), sigma / (1 + sigma)
