"""Deterministic solvers of the probability-flow ODE and their inverses.

States keep the dtype of their arguments promoted with the float64 times, so targets are formed in float64 whatever the
network computes in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process, per_sample


def ddim_step(process: Process, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Step from t to s along the line that a constant denoiser draws (DDIM, Song et al. 2021, eq. 12).

    With eps = (x_t - alpha_t x0) / sigma_t, returns alpha_s x0 + sigma_s eps, written as
    (sigma_s / sigma_t) x_t + (cross(t, s) / sigma_t) x0. For a variance-exploding process this is Euler's step.

    Args:
        process: the diffusion process.
        x_t: state at t, ``[B, C, H, W]``.
        x0: the denoiser's prediction at (x_t, t), same shape.
        t: current times ``[B]``, float64.
        s: next times ``[B]``, float64.
    """
    sigma_t = process.sigma(t)
    return per_sample(process.sigma(s) / sigma_t, x_t) * x_t + per_sample(process.cross(t, s) / sigma_t, x_t) * x0


def ddim_inverse(process: Process, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return the x0 for which :func:`ddim_step` leads from x_t at t to x_s at s (s != t)."""
    cross = process.cross(t, s)
    return per_sample(process.sigma(t) / cross, x_t) * x_s - per_sample(process.sigma(s) / cross, x_t) * x_t


def ddim_sample(
    denoiser: Denoiser,
    process: Process,
    x: Tensor,
    steps: int,
    labels: Tensor | None = None,
    clip: bool = True,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Solve from pure noise at t = 1 to t = 0 in equal DDIM steps.

    Args:
        denoiser: x0 predictor.
        process: the diffusion process.
        x: noise of standard deviation ``process.prior_std``, ``[B, C, H, W]``.
        steps: number of steps, which is also the number of denoiser evaluations.
        labels: class indices ``[B]`` or None.
        clip: clip every predicted x0 to [-1, 1].
        on_step: called after each step, for progress.

    Returns:
        Samples ``[B, C, H, W]``, float64.
    """
    x = x.double()
    for index in range(steps, 0, -1):
        t = torch.full((len(x),), index / steps, dtype=torch.float64, device=x.device)
        s = torch.full_like(t, (index - 1) / steps)
        x0 = denoiser(x, t, labels)
        x = ddim_step(process, x, x0.clamp(-1, 1) if clip else x0, t, s)
        if on_step:
            on_step()
    return x
