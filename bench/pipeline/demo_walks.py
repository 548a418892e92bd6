"""The ways of the demo: points of mixture2d from noise to data, as samplers lead them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process, per_sample
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.evaluation.sampling import fresh_noise, prior_noise
from tractbench.pipeline.cell import Cell
from tractbench.pipeline.runtime import Runtime
from tractbench.results.record import Record
from tractbench.training.numerics import sampled_in

WALKERS = 320
"""Points whose ways are shown."""

WALK_STEPS = (1, 2, 4, 8, 16, 32)
"""Steps of the exact teacher beside its solution of the ODE."""

ODE_STEPS, ODE_KNOTS = 1024, 64
"""Steps of the solution, and how many of its states are kept."""


@dataclass(frozen=True)
class Walk:
    """Ways of points from noise to data, in coordinates in which their variance is at most that of noise and data.

    Attributes:
        angles: arctan(sigma / alpha) of each state, from pi/2 for noise down to 0, falling.
        states: x / sqrt(alpha^2 + sigma^2), ``[len(angles), WALKERS, 2]``. Between two of them a constant denoiser
            leads along an arc: x0 cos(angle) + eps sin(angle).
        nfe: network evaluations of a point.
        record: the run whose student it is, None for the exact teacher itself.
    """

    angles: Tensor
    states: Tensor
    nfe: int
    record: Record | None = None


@torch.no_grad()
def walk_of(cell: Cell, denoiser: Denoiser, sampler: Sampler, runtime: Runtime, record: Record | None = None) -> Walk:
    """Return the states that a sampler visits."""
    process, shape = cell.process, cell.dataset.shape
    start = prior_noise(process, shape, 0, range(WALKERS)).double().to(runtime.device)
    fresh = [one.to(runtime.device) for one in fresh_noise(sampler, shape, 0, range(WALKERS))]
    sampled = sampled_in(denoiser, cell.config.precision, runtime.device)
    states = [start]
    sample_ode(
        sampled, process, start, sampler, fresh=fresh, clip=cell.config.clip_sample, on_step=states.append,
        two_times=record is not None and cell.method.two_times,
    )  # fmt: skip
    return Walk(*_normal(process, sampler.times, torch.stack(states).cpu()), sampler.evaluations, record)


def _normal(process: Process, times: Sequence[float], states: Tensor) -> tuple[Tensor, Tensor]:
    """Return angles and states ``[T, N, 2]`` in the coordinates of :class:`Walk`."""
    t = torch.tensor(times, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return torch.atan2(sigma, alpha), (states / per_sample(torch.hypot(alpha, sigma), states)).flatten(2)
