"""Deterministic solvers of the probability-flow ODE and their inverses.

States keep the dtype of their arguments promoted with the float64 times, so targets are formed in float64 whatever the
network computes in.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process, Scales, per_sample


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
    return _ddim_step(process.scales(t, s), x_t, x0)


def _ddim_step(scales: Scales, x_t: Tensor, x0: Tensor) -> Tensor:
    sigma_t, sigma_s, cross = scales
    return per_sample(sigma_s / sigma_t, x_t) * x_t + per_sample(cross / sigma_t, x_t) * x0


def ddim_inverse(process: Process, x_t: Tensor, x_s: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return the x0 for which :func:`ddim_step` leads from x_t at t to x_s at s (s != t)."""
    sigma_t, sigma_s, cross = process.scales(t, s)
    return per_sample(sigma_t / cross, x_t) * x_s - per_sample(sigma_s / cross, x_t) * x_t


def heun_step(
    denoiser: Denoiser, process: Process, x_t: Tensor, t: Tensor, s: Tensor, labels: Tensor | None, x0: Tensor
) -> Tensor:
    """Step from t to s > 0 with the mean of the slopes at both ends, unclipped (Karras et al. 2022, algorithm 1).

    In the variance-exploding coordinates x / alpha and sigma / alpha, the slope is (x - x0) / sigma; so the step is an
    average of two DDIM steps from x_t, the second with the slope found where the first one led.

    Args:
        denoiser: x0 predictor, evaluated once more, at s.
        process: the diffusion process.
        x_t: state at t, ``[B, C, H, W]``.
        t: current times ``[B]``.
        s: next times ``[B]``, above 0.
        labels: class indices ``[B]`` or None.
        x0: the denoiser's prediction at (x_t, t).
    """
    scales, alpha_t, alpha_s = process.scales(t, s), process.alpha(t), process.alpha(s)
    euler = _ddim_step(scales, x_t, x0)
    noise = (euler - per_sample(alpha_s, x_t) * denoiser(euler, s, labels)) / per_sample(scales.sigma_s, x_t)
    corrected = per_sample(alpha_s / alpha_t, x_t) * x_t - per_sample(scales.cross / alpha_t, x_t) * noise
    return (euler + corrected) / 2


def sample_ode(
    denoiser: Denoiser,
    process: Process,
    x: Tensor,
    steps: int,
    labels: Tensor | None = None,
    *,
    solver: str = "ddim",
    clip: bool = True,
    on_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Solve from pure noise at t = 1 to t = 0 in equal steps of t.

    Args:
        denoiser: x0 predictor.
        process: the diffusion process.
        x: noise of standard deviation ``process.prior_std``, ``[B, C, H, W]``.
        steps: number of steps.
        labels: class indices ``[B]`` or None.
        solver: ``ddim``, one evaluation a step, or ``heun``, two but for the last step, which is DDIM's.
        clip: clip every x0 of a DDIM step to [-1, 1]; for Heun only the last one.
        on_step: given the state after each step.

    Returns:
        Samples ``[B, C, H, W]``, float64.
    """
    x = x.double()
    for index in range(steps, 0, -1):
        t = torch.full((len(x),), index / steps, dtype=torch.float64, device=x.device)
        s = torch.full_like(t, (index - 1) / steps)
        x0 = denoiser(x, t, labels)
        if solver == "heun" and index > 1:
            x = heun_step(denoiser, process, x, t, s, labels, x0)
        else:
            x = ddim_step(process, x, x0.clamp(-1, 1) if clip else x0, t, s)
        if on_step:
            on_step(x)
    return x


def solver_steps(solver: str, evaluations: int) -> int:
    """Return the most steps a solver can take with so many denoiser evaluations: Heun spends 2 S - 1 on S steps."""
    return (evaluations + 1) // 2 if solver == "heun" else evaluations
