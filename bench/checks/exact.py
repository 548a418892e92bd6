"""One Gaussian, whose probability-flow ODE has its solution in closed form: what a perfect student computes.

In the coordinates y = x / alpha and r = sigma / alpha the solution from r to r' is
y' = m + U diag(sqrt((l + r'^2) / (l + r^2))) U^T (y - m), with the covariance U diag(l) U^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process, per_sample
from tractbench.diffusion.solvers import ddim_inverse
from tractbench.method import Batch, Times
from tractbench.seeds import generator

MEAN = (0.3, -0.6, 0.1)
COVARIANCE = ((0.5, 0.2, -0.05), (0.2, 0.3, 0.02), (-0.05, 0.02, 0.04))
DIMENSIONS = len(MEAN)
SHAPE = (DIMENSIONS, 1, 1)


@dataclass(frozen=True)
class ExactStudent:
    """The x0 for which one DDIM step leads along the ODE to the end of a jump; where there is no jump, the teacher's.

    Attributes:
        process: the diffusion process.
        steps: equal steps of the student: from t it jumps to the next multiple of 1 / steps below.
        told: it is also told where jumps end, ``student(x_t, t, labels, t_end)``, and goes by that.
    """

    process: Process
    steps: int = 1
    told: bool = False

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        """Return x0 ``[B, 3, 1, 1]``, float64, at times ``[B]``; it can be differentiated, in forward mode too."""
        if self.told and t_end:
            end = t_end[0]
        else:  # 1e-9: multiples of 1 / steps are quotients, which products may miss by their last bit
            end = ((torch.ceil(t.detach() * self.steps - 1e-9) - 1) / self.steps).clamp(min=0)
        stays = end >= t.detach()
        end = torch.where(stays, 0.5 * t, end)
        x = x_t.double()
        x0 = ddim_inverse(self.process, x, solution(self.process, x, t, end), t, end)
        return torch.where(per_sample(stays, x), teacher(self.process)(x, t), x0)


def teacher(process: Process) -> MixtureDenoiser:
    """Return the optimal denoiser."""
    mean = torch.tensor([MEAN], dtype=torch.float64)
    return MixtureDenoiser(process, torch.ones(1), mean, torch.tensor([COVARIANCE], dtype=torch.float64))


def solution(process: Process, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Return where the ODE leads from ``x`` ``[B, 3, 1, 1]`` at t to s, float64."""
    values, vectors = torch.linalg.eigh(torch.tensor(COVARIANCE, dtype=torch.float64))
    mean = torch.tensor(MEAN, dtype=torch.float64)
    before, after = process.sigma(t) / process.alpha(t), process.sigma(s) / process.alpha(s)
    ratio = ((values + after[:, None] ** 2) / (values + before[:, None] ** 2)).sqrt()
    y = ((x.flatten(1) / process.alpha(t)[:, None] - mean) @ vectors * ratio) @ vectors.T + mean
    moved: Tensor = process.alpha(s)[:, None] * y
    return moved.reshape(x.shape)


def paired_batch(process: Process, times: Times, labels: Tensor | None = None) -> Batch:
    """Return a batch at given times ``[B]``, each x_t twice: its image is the posterior mean plus and minus a draw.

    So the average of a pair is the expectation of whatever is affine in image and noise, given x_t.

    Returns:
        ``2 B`` examples; example i + B belongs to example i.
    """
    random = generator("check", "pairs")
    values, vectors = torch.linalg.eigh(torch.tensor(COVARIANCE, dtype=torch.float64))
    mean = torch.tensor(MEAN, dtype=torch.float64)
    alpha, sigma = process.alpha(times.t)[:, None], process.sigma(times.t)[:, None]
    normal, other = torch.randn((2, len(times.t), DIMENSIONS), dtype=torch.float64, generator=random)
    spread = (alpha**2 * values + sigma**2).sqrt()
    x_t = (alpha * mean + (normal * spread) @ vectors.T)[:, :, None, None]
    centre = teacher(process)(x_t, times.t)
    away = ((other * values.sqrt() * sigma / spread) @ vectors.T)[:, :, None, None]
    twice = Times(*(torch.cat([one, one]) for one in (times.t, times.t_next, times.t_end)))
    x0, x_t = torch.cat([centre + away, centre - away]), torch.cat([x_t, x_t])
    noise = (x_t - per_sample(process.alpha(twice.t), x_t) * x0) / per_sample(process.sigma(twice.t), x_t)
    return Batch(x_t, twice, labels, x0, noise, process)


def uniforms(count: int, draws: int) -> Tensor:
    """Return ``[count, draws]`` points of a Kronecker sequence, evenly spread over the unit cube, float64."""
    root = 1.0  # of x^(draws + 1) = x + 1, the generalised golden ratio
    for _ in range(64):
        root = (1 + root) ** (1 / (draws + 1))
    steps = torch.tensor([root ** -(axis + 1) for axis in range(draws)], dtype=torch.float64)
    return (0.5 + torch.arange(count, dtype=torch.float64)[:, None] * steps) % 1


def perturbed(student: Denoiser, process: Process, theta: Tensor) -> Denoiser:
    """Return student + sum_k theta_k d_k, with a ``theta`` ``[B, 5]`` of each example's own.

    The directions d_k are the constants along each axis, the state in units of its own scale, and that state with its
    axes exchanged.
    """

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        scale = (process.alpha(t) ** 2 + process.sigma(t) ** 2).sqrt()
        state = x_t.double().flatten(1) / scale[:, None]
        directions = torch.stack(
            [*torch.eye(DIMENSIONS, dtype=torch.float64).expand(len(x_t), -1, -1).unbind(1), state, state.roll(1, 1)], 1
        )
        change = torch.einsum("bk,bkd->bd", theta, directions)
        return student(x_t, t, labels, *t_end) + change[:, :, None, None]

    return denoise


DIRECTIONS = DIMENSIONS + 2
