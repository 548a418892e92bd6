"""Solvers of the probability-flow ODE, their inverses, and fresh noise between their steps.

States keep the dtype of their arguments promoted with the float64 times, so targets are formed in float64 whatever the
network computes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process, Scales, per_sample
from tractbench.diffusion.sampler import Sampler


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


def renoise(process: Process, x_r: Tensor, r: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """Return the state at s that fresh noise makes of one at r <= s, as the forward process goes from r to s.

    x_s = (alpha_s / alpha_r) x_r + sqrt(sigma_s^2 - (alpha_s / alpha_r)^2 sigma_r^2) z.

    Args:
        process: the diffusion process.
        x_r: state at r, ``[B, C, H, W]``.
        r: its times ``[B]``.
        s: times of the result ``[B]``.
        z: standard normal, of the state's shape.
    """
    ratio = process.alpha(s) / process.alpha(r)
    variance = process.sigma(s) ** 2 - (ratio * process.sigma(r)) ** 2
    return per_sample(ratio, x_r) * x_r + per_sample(variance.clamp(min=0).sqrt(), x_r) * z  # 0 by rounding at s = r


def sample_ode(
    denoiser: Denoiser,
    process: Process,
    x: Tensor,
    sampler: Sampler,
    labels: Tensor | None = None,
    *,
    fresh: Sequence[Tensor] = (),
    two_times: bool = False,
    clip: bool = True,
    on_step: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Solve from pure noise at t = 1 to t = 0.

    Args:
        denoiser: x0 predictor.
        process: the diffusion process.
        x: noise of standard deviation ``process.prior_std``, ``[B, C, H, W]``.
        sampler: its steps.
        labels: class indices ``[B]`` or None.
        fresh: standard normal noise of x's shape, one for each entry of ``sampler.noise``.
        two_times: the denoiser is also told where each step ends: ``denoise(x, t, labels, s)``.
        clip: clip every x0 of a DDIM step to [-1, 1]; for Heun only the last one.
        on_step: given the state after each step, and after the noise that follows it.

    Returns:
        Samples ``[B, C, H, W]``, float64.

    Raises:
        ValueError: there is not as much noise as the sampler takes, or a denoiser of two times is to take Heun's steps.
    """
    if len(fresh) != len(sampler.noise):
        raise ValueError(f"{len(fresh)} noises for a sampler that takes {len(sampler.noise)}")
    if two_times and sampler.solver != "ddim":
        raise ValueError("a denoiser of two times takes DDIM steps, as its jump is what a step is")
    x = x.double()
    for index, (start, end) in enumerate(pairwise(sampler.times)):
        last = index == sampler.steps - 1
        landing = sampler.noise[index] if sampler.noise and not last else end
        t = torch.full((len(x),), start, dtype=torch.float64, device=x.device)
        s = torch.full_like(t, landing)
        x0 = denoiser(x, t, labels, s) if two_times else denoiser(x, t, labels)
        if sampler.solver == "heun" and not last:
            x = heun_step(denoiser, process, x, t, s, labels, x0)
        else:
            x = ddim_step(process, x, x0.clamp(-1, 1) if clip else x0, t, s)
        if sampler.noise and not last:
            x = renoise(process, x, s, torch.full_like(t, end), fresh[index].double())
        if on_step:
            on_step(x)
    return x
