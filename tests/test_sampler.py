"""Samplers as values: their times, what they spend, and fresh noise between their steps."""

import math

import pytest
import torch

import tractbench.training.ahead as ahead
from tractbench.diffusion.denoiser import CountingDenoiser
from tractbench.diffusion.processes import VE, VP
from tractbench.diffusion.sampler import Sampler, solver_steps
from tractbench.diffusion.solvers import renoise, sample_ode
from tractbench.errors import ConfigError
from tractbench.evaluation.sampling import fresh_noise, sample
from tractbench.registry import load_method, method_names

MEAN, VARIANCE = 0.3, 0.25
NOISY = Sampler((1.0, 0.7, 0.4, 0.0), noise=(0.2, 0.0))


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def gain(process, t):
    """Slope of E[x0 | x_t] in x_t, for one Gaussian of VARIANCE a pixel."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return (alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)).reshape(-1, 1, 1, 1)


def perfect(process):
    def denoise(x, t, labels=None):
        return MEAN + gain(process, t) * (x - process.alpha(t).reshape(-1, 1, 1, 1) * MEAN)

    return denoise


@pytest.mark.parametrize("steps", [1, 3, 7, 40, 1024])
@pytest.mark.parametrize("solver", ["ddim", "heun"])
def test_equal_steps_are_exact_quotients(steps, solver):
    sampler = Sampler.equal(steps, solver)
    assert sampler.times == tuple((steps - i) / steps for i in range(steps + 1))
    assert (sampler.steps, sampler.noise) == (steps, ())
    assert solver_steps(solver, sampler.evaluations) == steps


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((1.0,),), "they go from 1 to 0"),
        (((0.9, 0.0),), "they go from 1 to 0"),
        (((1.0, 0.1),), "they go from 1 to 0"),
        (((1.0, 0.2, 0.5, 0.0),), "in falling order"),
        (((1.0, 0.5, 0.5, 0.0),), "in falling order"),
        (((1.0, 0.5, 0.0), "heun", (0.1,)), "choose ddim"),
        (((1.0, 0.5, 0.0), "ddim", (0.6,)), "give a time from 0"),
        (((1.0, 0.5, 0.0), "ddim", (-0.1,)), "give a time from 0"),
        (((1.0, 0.5, 0.0), "ddim", (0.1, 0.0)), "give a time from 0"),
    ],
)
def test_impossible_samplers_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Sampler(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", method_names())
def test_a_methods_sampler_spends_no_more_than_it_may(name):
    method = load_method(name)()
    for process in (VP() if "vp" in method.processes else VE(),):
        for nfe in (1, 2, 5, 8):
            assert 0 < method.sampler(nfe, process).evaluations <= nfe


def test_steps_begin_at_their_times_and_land_where_the_sampler_says():
    asked, states = [], []

    def denoise(x, t, labels, s):
        asked.append((float(t[0]), float(s[0])))
        return torch.zeros_like(x)

    noise = torch.ones(2, 1, 1, 1)
    fresh = [torch.zeros_like(noise)] * 2
    sample_ode(denoise, VE(), noise, NOISY, fresh=fresh, two_times=True, on_step=states.append)
    assert asked == [(1.0, 0.2), (0.7, 0.0), (0.4, 0.0)]
    # without fresh noise a state of a VE process stays as it is while its noise grows
    at = VE().sigma(column(1.0, 0.2))
    torch.testing.assert_close(states[0], noise.double() * at[1] / at[0])
    asked.clear()
    sample_ode(denoise, VE(), noise, Sampler.equal(2), two_times=True)
    assert asked == [(1.0, 0.5), (0.5, 0.0)]


def test_what_a_sampler_needs_is_asked_for():
    noise = torch.ones(2, 1, 1, 1)
    with pytest.raises(ValueError, match="0 noises for a sampler that takes 2"):
        sample_ode(perfect(VP()), VP(), noise, NOISY)
    with pytest.raises(ValueError, match="two times"):
        sample_ode(perfect(VE()), VE(), noise, Sampler.equal(2, "heun"), two_times=True)


@pytest.mark.parametrize("process", [VP(), VE()], ids=["vp", "ve"])
@pytest.mark.parametrize(("r", "s"), [(0.0, 0.01), (0.0, 0.6), (0.3, 0.6), (0.3, 0.3), (0.9, 1.0)])
def test_fresh_noise_leads_from_one_marginal_to_the_other(process, r, s):
    r, s = column(r), column(s)
    one, none = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    slope, spread = float(renoise(process, one, r, s, none)), float(renoise(process, none, r, s, one))
    # x_r = alpha_r x0 + sigma_r eps becomes alpha_s x0 + sigma_s eps'
    assert slope * float(process.alpha(r)) == pytest.approx(float(process.alpha(s)), rel=1e-12)
    variance = slope**2 * float(process.sigma(r)) ** 2 + spread**2
    assert variance == pytest.approx(float(process.sigma(s)) ** 2, rel=1e-12)


def drawn(process, sampler, denoiser=None, *, count=24, chunk=8, shape=(1, 2, 2), **options):
    denoiser = denoiser or perfect(process)
    parts = sample(denoiser, process, shape, 5, count, sampler, chunk=chunk, clip=False, **options)
    return torch.cat(list(parts))


@pytest.mark.parametrize("process", [VP(), VE()], ids=["vp", "ve"])
def test_noise_between_steps_is_each_images_own(process, monkeypatch):
    whole = drawn(process, NOISY)
    for how in ({"chunk": 1}, {"chunk": 3}, {"chunk": 24}, {"batch": 5}, {"batch": 100}):
        assert torch.equal(drawn(process, NOISY, **how), whole)
    assert torch.equal(drawn(process, NOISY, count=13), whole[:13])
    parts = [drawn(process, NOISY, count=16), drawn(process, NOISY, first=16)]
    assert torch.equal(torch.cat(parts), whole)
    monkeypatch.setattr(ahead, "asynchronous", lambda device: True)  # drawn by another thread, before it is needed
    assert torch.equal(drawn(process, NOISY), whole)


def test_noise_between_steps_differs_by_seed_image_and_step():
    shape, indices = (1, 2, 2), range(3)
    first, second = fresh_noise(NOISY, shape, 0, indices)
    other, _ = fresh_noise(NOISY, shape, 1, indices)
    found = torch.cat([first, second, other]).flatten(1)
    assert len({tuple(row) for row in found.tolist()}) == 9
    assert fresh_noise(Sampler.equal(3), shape, 0, indices) == ()


def assert_moments(pixels, mean, variance):
    """Within five standard errors of a Gaussian's mean and variance."""
    count = pixels.numel()
    assert float(pixels.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / count))
    assert float(pixels.var()) == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / count))


def test_two_steps_of_a_consistency_function_have_its_exact_distribution():
    process, time = VE(), 0.5
    top, middle = 80.0, float(process.sigma(column(time)))

    def consistent(x, t, labels=None):
        return MEAN + (VARIANCE / (VARIANCE + process.sigma(t) ** 2)).sqrt().reshape(-1, 1, 1, 1) * (x - MEAN)

    first = VARIANCE / (VARIANCE + top**2)
    second = VARIANCE / (VARIANCE + middle**2)
    mean = MEAN * (1 - math.sqrt(first))
    expected = MEAN + math.sqrt(second) * (mean - MEAN), second * (first * top**2 + middle**2)
    sampler = Sampler((1.0, time, 0.0), noise=(0.0,))
    assert_moments(drawn(process, sampler, consistent, count=200, chunk=200, shape=(1, 16, 16)), *expected)


def test_two_ddim_steps_with_fresh_noise_have_their_exact_variance():
    process, landing, time = VP(), 0.3, 0.6
    variance = 1.0
    for start, end, up in ((1.0, landing, time), (time, 0.0, None)):
        t, s = column(start), column(end)
        sigma, alpha = process.sigma(column(start, end)), process.alpha(column(start, end))
        # x0 = gain x and eps = (x - alpha_t x0) / sigma_t, about the mean
        slope = float(gain(process, t)) * float(alpha[1] - alpha[0] * sigma[1] / sigma[0]) + float(sigma[1] / sigma[0])
        variance *= slope**2
        if up is not None:
            ratio = float(process.alpha(column(up)) / process.alpha(s))
            variance *= ratio**2
            variance += float(process.sigma(column(up)) ** 2) - ratio**2 * float(process.sigma(s)) ** 2
    pixels = drawn(process, Sampler((1.0, time, 0.0), noise=(landing,)), count=200, chunk=200, shape=(1, 16, 16))
    assert float(pixels.var()) == pytest.approx(variance, abs=5 * variance * math.sqrt(2 / pixels.numel()))


def test_evaluations_are_counted_through_noise_and_two_times():
    def denoise(x, t, labels, s):
        return torch.zeros_like(x)

    counter = CountingDenoiser(denoise)
    drawn(VE(), NOISY, counter, count=1, chunk=1, two_times=True)
    assert counter.evaluations == NOISY.evaluations == 3
