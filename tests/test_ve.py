import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tractbench.diffusion.denoiser import CountingDenoiser, SigmaDenoiser
from tractbench.diffusion.processes import VE, VP, Scales
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import ddim_inverse, ddim_step, heun_step, sample_ode
from tractbench.method import Batch, Nets, Phase, Times
from tractbench.methods.tract_edm import TRACTEDM

N = 40


pytestmark = pytest.mark.usefixtures("one_thread")


def edm_grid(points=N):
    """Sigma 0 to N from the falling form of Karras et al. 2022, eq. 5, index 0 the largest; then 0 at the end."""
    i = np.arange(points)
    falling = (80 ** (1 / 7) + i / (points - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    return np.append(falling, 0.0)[::-1]


class SigmaIsTime:
    """Variance exploding, with sigma itself as the time."""

    name, prior_std = "sigma", 80.0

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return t

    def log_snr(self, t):
        return -2 * t.log()

    def scales(self, t, s):
        return Scales(t, s, t - s)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def wide(values):
    return values.reshape(-1, 1, 1, 1)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def curved_denoiser(x, sigma):
    """A smooth denoiser that no solver integrates exactly and that leaves [-1, 1]."""
    return 3 * torch.tanh(x / (1 + wide(sigma))) + 0.1


# the grid


def test_grid_ends_at_edms_smallest_and_largest_sigma():
    sigma = VE().sigma(column(0, 1 / N, 1))
    assert float(sigma[0]) == 0.0
    assert sigma[1:].tolist() == pytest.approx([0.002, 80.0], rel=1e-13)
    assert VE().prior_std == 80.0


@pytest.mark.parametrize("points", [2, 18, N, 1024])
def test_grid_has_the_formulas_values(points):
    t = torch.arange(points + 1, dtype=torch.float64) / points
    np.testing.assert_allclose(VE(points).sigma(t).numpy(), edm_grid(points), rtol=1e-12)


def test_seventh_roots_of_sigma_are_evenly_spaced():
    roots = VE().sigma(torch.arange(1, N + 1, dtype=torch.float64) / N) ** (1 / 7)
    gap = (80 ** (1 / 7) - 0.002 ** (1 / 7)) / (N - 1)
    torch.testing.assert_close(roots.diff(), torch.full((N - 1,), gap, dtype=torch.float64), rtol=1e-11, atol=0)


def test_the_signal_is_never_scaled():
    t = torch.linspace(0, 1, 2 * N + 1, dtype=torch.float64)
    assert torch.equal(VE().alpha(t), torch.ones_like(t))
    assert bool((VE().sigma(t).diff() > 0).all())


@pytest.mark.parametrize("solver", ["ddim", "heun"])
@pytest.mark.parametrize("steps", [1, 2, 5, 8, 40])
def test_sampling_visits_every_so_many_th_node(steps, solver):
    asked = []

    def denoiser(x, t, labels):
        asked.append(float(VE().sigma(t)[0]))
        return torch.zeros_like(x)

    sample_ode(denoiser, VE(), 80 * normal(2, 1, 2, 2), Sampler.equal(steps, solver))
    visited = edm_grid()[:: N // steps][::-1]
    # Heun asks at both ends of each step but the last, so every inner node twice
    twice = [sigma for sigma in visited[1:-1] for _ in range(2)]
    expected = [visited[0], *twice] if solver == "heun" else visited[:-1]
    assert asked == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_heun_spends_two_evaluations_a_step_but_one_on_the_last(steps):
    counter = CountingDenoiser(lambda x, t, labels: x)
    sample_ode(counter, VE(), normal(1, 1, 1, 1), Sampler.equal(steps, "heun"))
    assert counter.evaluations == 2 * steps - 1


# steps

sigmas = st.floats(1e-3, 80)


@settings(deadline=None, max_examples=50)
@given(sigmas, st.floats(0, 0.99), st.integers(0, 99))
def test_ddim_ve_moves_along_the_line_to_x0_and_back(sigma, ratio, seed):
    x_t, x0 = sigma * normal(3, 1, 2, 2, seed=seed), normal(3, 1, 2, 2, seed=seed + 100)
    t, s = column(*[sigma] * 3), column(*[sigma * ratio] * 3)
    x_s = ddim_step(SigmaIsTime(), x_t, x0, t, s)
    torch.testing.assert_close(x_s, x0 + wide(s / t) * (x_t - x0), rtol=0, atol=1e-12)
    expected = wide(1 / (t - s)) * (wide(t) * x_s - wide(s) * x_t)
    inverse = ddim_inverse(SigmaIsTime(), x_t, x_s, t, s)
    torch.testing.assert_close(inverse, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(inverse, x0, rtol=0, atol=1e-9)


def test_heun_step_is_the_mean_of_the_slopes_at_both_ends():
    t, s = VE().sigma(column(1, 0.7, 0.5, 2 / N)), VE().sigma(column(0.9, 0.2, 0.475, 1 / N))
    x_t = wide(t) * normal(4, 2, 3, 3)

    d = (x_t - curved_denoiser(x_t, t)) / wide(t)
    predicted = x_t + wide(s - t) * d
    d_prime = (predicted - curved_denoiser(predicted, s)) / wide(s)
    expected = x_t + wide(s - t) * (d + d_prime) / 2

    found = heun_step(lambda x, t, labels: curved_denoiser(x, t), SigmaIsTime(), x_t, t, s, None,
                      curved_denoiser(x_t, t))  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_clipping_touches_no_step_of_heun_but_the_last():
    def denoiser(x, t, labels):
        return torch.full_like(x, 3.0)

    states = []
    sample_ode(denoiser, VE(), 80 * normal(2, 1, 1, 1), Sampler.equal(4, "heun"), clip=True, on_step=states.append)
    x, grid = 80 * normal(2, 1, 1, 1), edm_grid()[::10]
    for found, sigma in zip(states[:-1], grid[3:0:-1], strict=True):  # the flow of a point mass is the straight line
        torch.testing.assert_close(found, 3 + sigma / 80 * (x - 3), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(states[-1], torch.ones_like(x), rtol=0, atol=0)


# order of convergence on one Gaussian, whose flow carries quantiles to quantiles

MEAN, VARIANCE = 0.3, 0.25


def posterior_mean(x, alpha, sigma):
    return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def exact_flow(x, start, end):
    (alpha, sigma), (beta, tau) = start, end
    stretch = math.sqrt((beta**2 * VARIANCE + tau**2) / (alpha**2 * VARIANCE + sigma**2))
    return beta * MEAN + stretch * (x - alpha * MEAN)


def vp_scales(u):
    angle = math.atan(math.exp(-10)) + u * (math.atan(math.exp(10)) - math.atan(math.exp(-10)))
    return math.cos(angle), math.sin(angle)


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2)])
def test_order_of_convergence_on_the_sigma_grid(solver, order):
    x = 80 * torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)
    # the last step, from 0.002 to 0, is as long on every grid: it goes to the posterior mean
    expected = posterior_mean(exact_flow(x, (1, 80.0), (1, 0.002)), 1.0, 0.002)
    errors = []
    for steps in (160, 320, 640, 1280):
        process = VE(steps)

        def denoiser(x, t, labels, process=process):
            return posterior_mean(x, 1.0, wide(process.sigma(t)))

        found = sample_ode(denoiser, process, x, Sampler.equal(steps, solver), clip=False)
        errors.append(float((found - expected).abs().max()))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([order] * 3, abs=0.1)


def test_heun_is_of_second_order_on_a_vp_process_too():
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(-1, 1, 1, 1)

    def denoiser(x, t, labels):
        alpha, sigma = vp_scales(float(t[0]))
        return posterior_mean(x, alpha, sigma)

    errors = []
    for steps in (32, 64, 128, 256):
        state = x
        for index in range(steps, 0, -1):  # from 9/10 to 1/10, where both scales are far from 0
            t, s = (column(*[0.1 + 0.8 * i / steps] * 9) for i in (index, index - 1))
            state = heun_step(denoiser, VP(), state, t, s, None, denoiser(state, t, None))
        errors.append(float((state - exact_flow(x, vp_scales(0.9), vp_scales(0.1))).abs().max()))
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([2] * 3, abs=0.1)


# EDM's preconditioning


class Recording(nn.Module):
    """A raw network F that returns ``scale`` times its input plus ``shift`` and keeps what it was given."""

    def __init__(self, scale=0.0, shift=0.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.shift = nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x, noise_level, labels=None):
        self.given = x, noise_level, labels
        return self.scale * x + self.shift


@pytest.mark.parametrize(
    ("sigma", "c_skip", "c_out", "c_in", "c_noise"),
    [
        (0.5, 0.5, 0.353553391, 1.414213562, -0.17328680),
        (1.0, 0.2, 0.447213595, 0.894427191, 0.0),
        (10.0, 0.00249376559, 0.499376169, 0.0998752339, 0.57564627),
    ],
)
def test_preconditioning_has_its_published_coefficients(sigma, c_skip, c_out, c_in, c_noise):
    x, t = torch.ones(1, 1, 2, 2, dtype=torch.float64), column(sigma)
    silent, loud = Recording(), Recording(shift=1.0)
    skipped = SigmaDenoiser(silent, SigmaIsTime())(x, t)
    added = SigmaDenoiser(loud, SigmaIsTime())(x, t) - skipped
    given, noise_level, _ = silent.given
    torch.testing.assert_close(skipped, c_skip * x, rtol=2e-9, atol=0)
    torch.testing.assert_close(added, c_out * x, rtol=2e-9, atol=0)
    torch.testing.assert_close(given, c_in * x, rtol=2e-9, atol=0)
    assert float(noise_level) == pytest.approx(c_noise, abs=5e-9)


def test_preconditioned_input_and_regression_target_have_unit_variance():
    sigma = VE().sigma(torch.arange(1, N + 1, dtype=torch.float64) / N)
    net = Recording(shift=1.0)
    ones = torch.ones(N, 1, 1, 1, dtype=torch.float64)
    c_out = SigmaDenoiser(net, VE())(ones, torch.arange(1, N + 1).double() / N).flatten()
    c_in, c_skip = net.given[0].flatten(), 0.25 / (sigma**2 + 0.25)
    c_out = c_out - c_skip
    torch.testing.assert_close(c_in**2 * (sigma**2 + 0.25), torch.ones(N, dtype=torch.float64), rtol=1e-12, atol=0)
    # (x0 - c_skip x_t) / c_out with x0 of variance 1/4: the definition of c_out (EDM, appendix B.6)
    target = ((1 - c_skip) ** 2 * 0.25 + c_skip**2 * sigma**2) / c_out**2
    torch.testing.assert_close(target, torch.ones(N, dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_loss_has_unit_weight_in_f_space():
    sigma = column(0.002, 0.1, 0.5, 1.0, 10.0, 80.0)
    x_t = wide(sigma) * normal(6, 1, 3, 3) + normal(6, 1, 3, 3, seed=1)
    times = Times(sigma, sigma, 0 * sigma)  # a repeated entry: the target is the teacher's x0
    batch = Batch(x_t, times, None, x_t, x_t, SigmaIsTime())
    target = TRACTEDM().target(batch, Phase(1, 1), 0.0, Nets(*[lambda x, t, labels: torch.cos(x)] * 3))

    net = Recording(scale=0.7, shift=-0.2)
    prediction = SigmaDenoiser(net, SigmaIsTime())(x_t, sigma)
    in_x_space = target.weight * TRACTEDM().distance(prediction, target.x0)

    c_skip, c_out = 1 / (1 + 4 * sigma**2), sigma / (2 * (sigma**2 + 0.25).sqrt())
    raw = 0.7 * net.given[0] - 0.2
    in_f_space = (raw - (torch.cos(x_t) - wide(c_skip) * x_t) / wide(c_out)).square().mean((1, 2, 3))
    # at sigma 0.002 the target is cos x - x over 0.002, so a rounding counts 500 times
    torch.testing.assert_close(in_x_space, in_f_space, rtol=1e-10, atol=0)


def test_weights_of_the_edm_loss():
    sigma = column(0.5, 1.0, 10.0)
    x = torch.zeros(3, 1, 1, 1, dtype=torch.float64)
    batch = Batch(x, Times(sigma, sigma, 0 * sigma), None, x, x, SigmaIsTime())
    target = TRACTEDM().target(batch, Phase(1, 1), 0.0, Nets(*[lambda x, t, labels: x] * 3))
    assert target.weight.tolist() == pytest.approx([8.0, 5.0, 4.01], rel=1e-13)


def test_the_edm_distance_is_a_mean_over_pixels():
    prediction, target = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    target[1] = -1.0
    assert TRACTEDM().distance(prediction, target).tolist() == [0.25, 1.0]
