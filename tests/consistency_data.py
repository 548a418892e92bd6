"""One Gaussian N(M, S), whose probability-flow ODE has a formula, and batches and networks for it."""

import math

import torch

from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.processes import VE, VP, per_sample
from tractbench.diffusion.solvers import ddim_inverse
from tractbench.method import Batch
from tractbench.nets.build import build_network
from tractbench.seeds import generator

M = torch.tensor([0.3, -0.6, 0.1], dtype=torch.float64)
S = torch.tensor([[0.5, 0.2, -0.05], [0.2, 0.3, 0.02], [-0.05, 0.02, 0.04]], dtype=torch.float64)
VALUES, VECTORS = torch.linalg.eigh(S)
VE40, VP_ = VE(40), VP()


def exact_denoiser(process):
    return MixtureDenoiser(process, torch.ones(1), M[None], S[None])


def solution(process, x, t, s):
    """Where the ODE leads from x at t to s: each axis shrinks with the marginal standard deviation."""

    def deviation(time):
        return (process.alpha(time)[:, None] ** 2 * VALUES + process.sigma(time)[:, None] ** 2).sqrt()

    centred = (x.flatten(1) - process.alpha(t)[:, None] * M) @ VECTORS
    moved = (centred * deviation(s) / deviation(t)) @ VECTORS.T + process.alpha(s)[:, None] * M
    return moved.reshape(x.shape)


def exact_jump(process, end=None):
    """The x0 whose DDIM step from t leads to where the ODE does, at ``end(t)``, the clean end by default."""

    def denoise(x, t, labels=None, *t_end):
        s = t_end[0] if t_end else end(t) if end else torch.zeros_like(t)
        here = s == t
        below = torch.where(here, 0.5 * t, s)
        x0 = ddim_inverse(process, x, solution(process, x, t, below), t, below)
        return torch.where(per_sample(here, x), exact_denoiser(process)(x, t), x0)

    return denoise


def unused(x, t, labels=None):
    raise AssertionError("this target needs no such network")


def random_batch(process, times, seed=0):
    generator_ = generator("consistency", seed)
    count = len(times.t)
    x0 = torch.randn((count, 3, 1, 1), dtype=torch.float64, generator=generator_)
    noise = torch.randn((count, 3, 1, 1), dtype=torch.float64, generator=generator_)
    x_t = per_sample(process.alpha(times.t), x0) * x0 + per_sample(process.sigma(times.t), x0) * noise
    return Batch(x_t=x_t, times=times, labels=None, x0=x0, noise=noise, process=process)


def expected_batch(process, times, seed=0):
    """A batch whose clean image and noise are the expected ones given x_t: targets affine in them are expectations."""
    batch = random_batch(process, times, seed)
    x0 = exact_denoiser(process)(batch.x_t, times.t)
    noise = (batch.x_t - per_sample(process.alpha(times.t), x0) * x0) / per_sample(process.sigma(times.t), x0)
    return Batch(batch.x_t, times, None, x0, noise, process)


def order(error, steps):
    """The observed order of an error as a function of the number of steps."""
    return math.log2(error(steps) / error(2 * steps))


def tiny_network(seed=0):
    net = build_network(
        "mlp",
        {"channels": 3, "size": 1, "width": 16, "blocks": 1, "embedding": 8, "c_noise": 1},
        generator("tiny", seed),
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():  # branches start at zero, and would hide what passes through them
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator("more", seed)))
    return net
