"""What the methods of the consistency family share: noise levels, samplers with fresh noise, and their first phase."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.preconditioning import SIGMA_DATA
from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler
from tractbench.errors import ConfigError
from tractbench.method import Batch, Nets

TINY = 1e-30
"""Below it a square root is not asked for its slope, which is infinite at 0."""


def standard_normal(u: Tensor) -> Tensor:
    """Return the standard normal quantiles of uniforms in [0, 1), finite at 0 too."""
    quantiles: Tensor = torch.special.ndtri(u.clamp(min=2.0**-54))
    return quantiles


def log_normal_levels(u: Tensor, mean: float, std: float, largest: float, least: float = 0.0) -> Tensor:
    """Return noise levels sigma ``[B]`` with ln sigma ~ N(mean, std^2), limited to ``least`` and ``largest``.

    Args:
        u: uniforms in [0, 1), ``[B]``, float64.
        mean: of ln sigma.
        std: of ln sigma.
        largest: the noise level that sampling starts from; no sampler asks for more.
        least: the noise level below which the teacher cannot be asked.
    """
    return torch.exp(mean + std * standard_normal(u)).clamp(least, largest)


def pseudo_huber(difference: Tensor, c: float) -> Tensor:
    """Return sqrt(|d|^2 + c^2) - c, ``[B]`` (Song & Dhariwal 2023, section 3.3); that is the L2 norm at c = 0."""
    return (difference.square().flatten(1).sum(1) + c**2).clamp(min=TINY).sqrt() - c


def consistency_sampler(process: Process, nfe: int, levels: tuple[float, ...], middle: float) -> Sampler:
    """Return the sampler that maps to the clean end and adds fresh noise again (Song et al. 2023, algorithm 1).

    A model that is the identity at sigma_min instead of 0 is followed by noise of variance sigma^2 - sigma_min^2 in the
    paper; here it is sigma^2, which is nearer than 1e-5 of it wherever sigma is above 0.64.

    Args:
        process: the diffusion process.
        nfe: evaluations.
        levels: sigma / alpha that the second and later evaluations start from, decreasing; () for sigma_max
            (middle / sigma_max)^(2 k / nfe), a geometric sequence whose middle is ``middle``.
        middle: the one level of two evaluations.

    Raises:
        ConfigError: there is not one level for each evaluation but the first, or they are out of range or order.
    """
    if not levels:
        levels = tuple(process.sigma_max * (middle / process.sigma_max) ** (2 * k / nfe) for k in range(1, nfe))
    elif len(levels) != nfe - 1:
        raise ConfigError(f"levels {_join(levels)}: nfe {nfe} takes {nfe - 1} of them; give as many or leave them out")
    bounds = (process.sigma_max, *levels, 0.0)
    if any(before <= after for before, after in pairwise(bounds)):
        raise ConfigError(f"levels {_join(levels)}: they fall from below {process.sigma_max:g} to above 0")
    times = process.time(torch.tensor(levels, dtype=torch.float64)).tolist()
    return Sampler(times=(1.0, *times, 0.0), noise=(0.0,) * len(times))


def _join(levels: tuple[float, ...]) -> str:
    return ",".join(f"{level:g}" for level in levels)


def regression(batch: Batch, nets: Nets, student: Denoiser) -> Tensor:
    """Return the loss ``[B]`` of a phase that repeats its steps: the student learns the teacher's x0 as it is.

    The weight is EDM's, (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, over the mean of the pixels (Karras et al.
    2022, table 1): later phases take this student's slopes at every noise level.
    """
    x0 = nets.teacher(batch.x_t, batch.times.t, batch.labels)
    sigma = batch.process.sigma(batch.times.t)
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    error = student(batch.x_t, batch.times.t, batch.labels) - x0
    return weight * error.square().flatten(1).mean(1)


def derivative_along(
    function: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, dx: Tensor, dt: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a function's value at (x, t) and its derivative along (dx, dt), in one forward-mode pass.

    Args:
        function: of a state ``[B, C, H, W]`` and times ``[B]``.
        x: the state.
        t: the times.
        dx: direction of the state, same shape.
        dt: direction of the times, same shape.
    """
    with warnings.catch_warnings():  # torch's own first use of its derivatives' table
        warnings.filterwarnings("ignore", message="`torch.jit.script` is", category=FutureWarning)
        found = torch.func.jvp(function, (x, t), (dx, dt))
    return found[0], found[1]
