import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tractbench.diffusion.denoiser import CountingDenoiser
from tractbench.diffusion.processes import VP, per_sample
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import ddim_inverse, ddim_step, sample_ode

PROCESS = VP()
FINEST = 1024


def scales(t):
    """Alpha and sigma from logSNR, [B, 1, 1, 1]."""
    log_snr = PROCESS.log_snr(t)[:, None, None, None]
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def states(count=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    shape = (count, 2, 3, 3)
    return [torch.randn(shape, dtype=torch.float64, generator=random) for _ in range(2)]


def times(count, *values):
    return [torch.full((count,), value, dtype=torch.float64) for value in values]


@st.composite
def falling_times(draw):
    steps = draw(st.sampled_from([2**k for k in range(11)]))
    upper = draw(st.integers(1, steps))
    lower = draw(st.integers(0, upper - 1))
    return upper / steps, lower / steps


@settings(deadline=None)
@given(falling_times(), st.integers(0, 99))
def test_step_keeps_the_noise_that_the_denoiser_implies(pair, seed):
    x_t, x0 = states(seed=seed)
    t, s = times(len(x_t), *pair)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = scales(t), scales(s)
    eps = (x_t - alpha_t * x0) / sigma_t
    # at t = 1/1024 eps is divided by sigma = 1.6e-3, so its rounding is 1e-13
    torch.testing.assert_close(ddim_step(PROCESS, x_t, x0, t, s), alpha_s * x0 + sigma_s * eps, rtol=0, atol=1e-10)


def test_every_sample_steps_at_its_own_time():
    x_t, x0 = states()
    t, s = torch.linspace(0.5, 1, 6).double(), torch.linspace(0, 0.4, 6).double()
    together = ddim_step(PROCESS, x_t, x0, t, s)
    alone = [ddim_step(PROCESS, x_t[i : i + 1], x0[i : i + 1], t[i : i + 1], s[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-14, atol=1e-14)


@settings(deadline=None)
@given(falling_times(), st.integers(0, 99))
def test_inverse_undoes_the_step(pair, seed):
    x_t, x0 = states(seed=seed)
    t, s = times(len(x_t), *pair)
    x_s = ddim_step(PROCESS, x_t, x0, t, s)
    # a rounding of x_s, 1e-16 of values below 10, is divided by cross >= 1.5e-3
    torch.testing.assert_close(ddim_inverse(PROCESS, x_t, x_s, t, s), x0, rtol=0, atol=1e-9)


@settings(deadline=None)
@given(falling_times(), st.integers(0, 99))
def test_step_undoes_the_inverse(pair, seed):
    x_t, x_s = states(seed=seed)
    t, s = times(len(x_t), *pair)
    x0 = ddim_inverse(PROCESS, x_t, x_s, t, s)
    torch.testing.assert_close(ddim_step(PROCESS, x_t, x0, t, s), x_s, rtol=0, atol=1e-9)


@settings(deadline=None)
@given(st.lists(st.integers(0, FINEST), min_size=3, max_size=3, unique=True), st.integers(0, 99))
def test_two_steps_with_a_constant_denoiser_equal_one(indices, seed):
    x_t, x0 = states(seed=seed)
    t, middle, s = times(len(x_t), *(i / FINEST for i in sorted(indices, reverse=True)))
    halfway = ddim_step(PROCESS, x_t, x0, t, middle)
    one = ddim_step(PROCESS, x_t, x0, t, s)
    torch.testing.assert_close(ddim_step(PROCESS, halfway, x0, middle, s), one, rtol=0, atol=1e-10)


def test_a_step_to_the_same_time_goes_nowhere():
    x_t, x0 = states()
    (t,) = times(len(x_t), 0.3)
    torch.testing.assert_close(ddim_step(PROCESS, x_t, x0, t, t), x_t, rtol=1e-15, atol=0)


@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7])
def test_a_short_step_and_its_inverse_keep_x0(gap):
    x_t, x0 = states()
    t, s = times(len(x_t), 0.5, 0.5 - gap)
    x_s = ddim_step(PROCESS, x_t, x0, t, s)
    # x_s is rounded to 2^-52 and the inverse divides by the gap; a float32 step would be off by 1e-7 / gap
    torch.testing.assert_close(ddim_inverse(PROCESS, x_t, x_s, t, s), x0, rtol=0, atol=1e-14 / gap)


def test_a_float32_prediction_steps_in_float64():
    x_t, x0 = states()
    t, s = times(len(x_t), 0.5, 0.25)
    assert ddim_step(PROCESS, x_t.float(), x0.float(), t, s).dtype == torch.float64
    assert ddim_inverse(PROCESS, x_t.float(), x0.float(), t, s).dtype == torch.float64


@pytest.mark.parametrize("steps", [1, 2, 32, 1024])
def test_a_point_mass_is_returned_up_to_the_last_noise(steps):
    noise, point = states()
    point = point[:1].clamp(-0.9, 0.9)
    result = sample_ode(lambda x, t, labels: point.expand_as(x), PROCESS, noise, Sampler.equal(steps))
    (alpha_1, sigma_1), (alpha_0, sigma_0) = (scales(torch.tensor([u], dtype=torch.float64)) for u in (1, 0))
    eps = (noise - alpha_1 * point) / sigma_1
    torch.testing.assert_close(result, alpha_0 * point + sigma_0 * eps, rtol=0, atol=1e-11)
    torch.testing.assert_close(result, point.expand_as(result), rtol=0, atol=4.6e-5 * float(eps.abs().max()))


MEAN, VARIANCE = 0.3, 0.25


def gaussian_denoiser(x, t, labels=None):
    """E[x0 | x_t] for one-dimensional N(MEAN, VARIANCE)."""
    gamma = per_sample(PROCESS.log_snr(t).sigmoid(), x)
    gain = gamma.sqrt() * VARIANCE / (gamma * VARIANCE + 1 - gamma)
    return MEAN + gain * (x - gamma.sqrt() * MEAN)


def exact_flow(x):
    """The probability flow carries each quantile of the marginal at t = 1 to the same quantile at t = 0."""
    first, last = (1 / (1 + math.exp(-log_snr)) for log_snr in (-20, 20))
    mean = [math.sqrt(gamma) * MEAN for gamma in (first, last)]
    std = [math.sqrt(gamma * VARIANCE + 1 - gamma) for gamma in (first, last)]
    return mean[1] + std[1] * (x - mean[0]) / std[0]


def test_ddim_is_of_first_order_on_a_gaussian():
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    steps = [64, 128, 256, 512, 1024]
    samples = [sample_ode(gaussian_denoiser, PROCESS, noise, Sampler.equal(n), clip=False) for n in steps]
    errors = [float((x - exact_flow(noise)).abs().max()) for x in samples]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders == pytest.approx([1] * 4, abs=0.05)
    assert errors[-1] < 5e-3


def test_ddim_is_exact_on_the_standard_normal():
    noise, _ = states()
    # for N(0, 1) the optimal denoiser is alpha x and the flow stands still: a step multiplies by cos(turn)
    result = sample_ode(lambda x, t, labels: scales(t)[0] * x, PROCESS, noise, Sampler.equal(4), clip=False)
    turn = (math.atan(math.exp(10)) - math.atan(math.exp(-10))) / 4
    torch.testing.assert_close(result, noise * math.cos(turn) ** 4, rtol=1e-10, atol=0)


def test_predictions_are_clipped_only_when_asked():
    noise, _ = states()

    def overshooting(x, t, labels):
        return torch.full_like(x, 3.0)

    clipped = sample_ode(overshooting, PROCESS, noise, Sampler.equal(8))
    torch.testing.assert_close(clipped, torch.ones_like(noise), rtol=0, atol=1e-3)
    free = sample_ode(overshooting, PROCESS, noise, Sampler.equal(8), clip=False)
    torch.testing.assert_close(free, torch.full_like(noise, 3.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_one_evaluation_a_step_at_equally_spaced_times(steps):
    seen, ticks = [], []

    def denoiser(x, t, labels):
        assert bool((t == t[0]).all())
        seen.append(float(t[0]))
        return x

    counter = CountingDenoiser(denoiser)
    noise, _ = states()
    result = sample_ode(counter, PROCESS, noise, Sampler.equal(steps), on_step=ticks.append)
    assert counter.evaluations == len(ticks) == steps
    assert seen == [(steps - i) / steps for i in range(steps)]
    assert torch.equal(ticks[-1], result)


def test_labels_reach_the_denoiser():
    noise, _ = states()
    labels = torch.arange(len(noise))
    received = []
    sample_ode(lambda x, t, labels: received.append(labels) or x, PROCESS, noise, Sampler.equal(2), labels=labels)
    assert all(torch.equal(given, labels) for given in received)
    assert len(received) == 2
