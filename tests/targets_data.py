"""Methods, networks and batches at every time that a method draws."""

import math

import torch

from tractbench.diffusion.processes import VE, VP
from tractbench.method import Batch, Times
from tractbench.methods.btd import BTD
from tractbench.methods.tract import TRACT
from tractbench.methods.tract_edm import TRACTEDM


def vp_scales(u):
    """Alpha and sigma as square roots of gamma and 1 - gamma, from logSNR."""
    low, high = math.atan(math.exp(-10)), math.atan(math.exp(10))
    log_snr = -2 * math.log(math.tan(low + u * (high - low)))
    return 1 / math.sqrt(1 + math.exp(-log_snr)), 1 / math.sqrt(1 + math.exp(log_snr))


PROCESSES = {"vp": lambda steps: VP(), "ve": VE}


def unused(x, t, labels=None):
    raise AssertionError("this target needs no such network")


def broken(x, t, labels=None):
    return torch.full_like(x, math.nan)


def curved(x, t, labels=None):
    """No optimal denoiser of anything; leaves [-1, 1]."""
    return 1.5 * torch.tanh(x + 0.3) + t.reshape(-1, 1, 1, 1)


def every_time(method, phase):
    """Every time that a method draws in a phase, once."""
    u = [((i + 0.5) / phase.end, (k + 0.5) / phase.group) for i in range(phase.end) for k in range(phase.group)]
    times = method.times(torch.tensor(u, dtype=torch.float64), phase, 0.0, VP())
    distinct = sorted(set(zip(*(part.tolist() for part in (times.t, times.t_next, times.t_end)), strict=True)))
    return Times(*torch.tensor(distinct, dtype=torch.float64).T)


def batch_at(times, process, *, seed=0, labels=None):
    random = torch.Generator().manual_seed(seed)
    noise, x0 = (torch.randn((len(times.t), 3, 1, 1), dtype=torch.float64, generator=random) for _ in range(2))
    alpha, sigma = (part(times.t).reshape(-1, 1, 1, 1) for part in (process.alpha, process.sigma))
    return Batch(alpha * x0 + sigma * noise, times, labels, x0, noise, process)


def assert_near(found, expected, atol=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


METHODS = {
    "btd": (BTD(clip_target=False, final_target="inverse"), "vp", "ddim"),
    "tract": (TRACT(clip_target=False), "vp", "ddim"),
    "tract_edm euler": (TRACTEDM(clip_target=False, teacher_solver="ddim_ve"), "ve", "ddim"),
    "tract_edm": (TRACTEDM(clip_target=False), "ve", "rk"),
}
