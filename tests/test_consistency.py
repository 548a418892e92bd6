"""The consistency family against closed forms on one Gaussian N(M, S), whose probability-flow ODE has a formula."""

import math

import pytest
import torch
from consistency_data import (
    VALUES,
    VE40,
    VP_,
    M,
    S,
    exact_denoiser,
    exact_jump,
    expected_batch,
    order,
    random_batch,
    solution,
    tiny_network,
    unused,
)
from pydantic import ValidationError

from tractbench.consistency import consistency_sampler, log_normal_levels, pseudo_huber, regression
from tractbench.diffusion.denoiser import SigmaDenoiser
from tractbench.diffusion.preconditioning import EDM
from tractbench.diffusion.processes import VE, per_sample
from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import ConfigError
from tractbench.method import Nets, Phase, Times, group_times
from tractbench.methods.cd import CD, BoundedDenoiser
from tractbench.methods.ect import ECT
from tractbench.methods.mscd import MSCD
from tractbench.methods.scm import SCM
from tractbench.methods.tract import TRACT
from tractbench.methods.tract_edm import TRACTEDM
from tractbench.seeds import generator


def at(*triples):
    return Times(*torch.tensor(triples, dtype=torch.float64).T)


def uniforms(count, width=2, seed=0):
    return torch.rand((count, width), dtype=torch.float64, generator=generator("uniforms", seed))


# --- noise levels and samplers


def test_log_normal_levels_have_the_quantiles_of_their_distribution():
    u = torch.tensor([0.0, 0.15865525393145707, 0.5, 0.8413447460685429, 0.9999999], dtype=torch.float64)
    sigma = log_normal_levels(u, -1.0, 1.4, 80.0)
    torch.testing.assert_close(
        sigma[1:4].log(), torch.tensor([-2.4, -1.0, 0.4], dtype=torch.float64), atol=1e-9, rtol=0
    )
    assert 0 < float(sigma[0]) < 1e-4
    assert float(sigma[4]) == 80.0  # not the 533 of its quantile
    torch.testing.assert_close(log_normal_levels(u, -1.0, 1.4, 80.0, 0.02), sigma.clamp(min=0.02), atol=0, rtol=0)


def test_levels_of_several_evaluations_are_geometric_around_the_middle():
    sampler = consistency_sampler(VE40, 4, (), 0.8)
    levels = VE40.sigma(torch.tensor(sampler.times, dtype=torch.float64))
    assert levels.tolist() == pytest.approx([80, 8, 0.8, 0.08, 0], abs=1e-9)
    assert sampler.noise == (0.0, 0.0, 0.0)
    assert consistency_sampler(VE40, 1, (), 0.8).times == (1.0, 0.0)


@pytest.mark.parametrize(
    ("method", "middle"), [(CD(), 0.4), (ECT(), 0.821), (SCM(), 0.5 * math.tan(1.1)), (CD(levels=(3.0,)), 3.0)]
)
def test_the_middle_of_two_evaluations(method, middle):
    time = method.sampler(2, VE40).times[1]
    assert float(VE40.sigma(torch.tensor(time, dtype=torch.float64))) == pytest.approx(middle)


@pytest.mark.parametrize(
    ("levels", "complaint"), [((1.0,), "nfe 3 takes 2"), ((1.0, 2.0), "fall"), ((90.0, 1.0), "fall")]
)
def test_levels_that_make_no_sampler_are_refused(levels, complaint):
    with pytest.raises(ConfigError, match=complaint):
        consistency_sampler(VE40, 3, levels, 0.4)


@pytest.mark.parametrize("method", [CD(), ECT(), SCM()])
def test_samples_of_an_exact_student_have_the_data_s_distribution(method):
    # affine in its noises: mean and covariance are read off the images of zero and of the unit vectors
    sampler = method.sampler(3, VE40)
    noises = torch.zeros((10, 3, 3, 1, 1), dtype=torch.float64)
    for place in range(9):
        noises[place + 1, place // 3, place % 3] = 1.0
    noises[:, 0] *= 80
    samples = sample_ode(
        exact_jump(VE40), VE40, noises[:, 0], sampler, fresh=(noises[:, 1], noises[:, 2]), clip=False
    ).flatten(1)
    mean, basis = samples[0], samples[1:] - samples[0]
    shrink = (VALUES / (VALUES + VE40.sigma(torch.tensor(sampler.times[-2], dtype=torch.float64)) ** 2)).sqrt()
    # what the prior lacks, sqrt(S + 80^2) for 80 and its mean, is all that is wrong
    torch.testing.assert_close(basis.T @ basis, S, atol=1e-4, rtol=0)
    torch.testing.assert_close(mean, M, atol=float(shrink.max()) * 1e-2, rtol=0)


def test_pseudo_huber_is_the_norm_at_zero_and_has_a_slope_everywhere():
    d = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = pseudo_huber(d, 0.0)
    value.sum().backward()
    assert value.tolist() == pytest.approx([5.0, 0.0], abs=1e-12)
    assert d.grad.tolist() == [pytest.approx([0.6, 0.8]), [0.0, 0.0]]
    assert pseudo_huber(d.detach(), 12.0).tolist() == pytest.approx([1.0, 0.0])


# --- consistency distillation


def test_cd_draws_neighbouring_levels_of_its_own_grid_down_to_sigma_min():
    levels = VE(18).sigma(torch.arange(0, 19, dtype=torch.float64) / 18)
    u = (torch.arange(17, dtype=torch.float64) + 0.5)[:, None].repeat(1, 2) / 17
    times = CD().times(u, Phase(18, 1), 0.0, VE40)  # 18 does not divide the process's own grid
    torch.testing.assert_close(VE40.sigma(times.t), levels[2:], rtol=1e-10, atol=0)
    torch.testing.assert_close(VE40.sigma(times.t_next), levels[1:18], rtol=1e-10, atol=0)


@pytest.mark.parametrize(("step", "expected"), [("heun", 3), ("ddim", 2)])
def test_cd_s_target_of_an_exact_student_is_exact_to_the_order_of_one_teacher_step(step, expected):
    nets = Nets(exact_denoiser(VE40), exact_jump(VE40), unused)

    def error(steps):
        sigma = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
        t, s = VE40.time(sigma), VE40.time(sigma * math.exp(-1 / steps))
        batch = random_batch(VE40, Times(t, s, torch.zeros_like(t)))
        target = CD(teacher_step=step).target(batch, Phase(40, 1), 0.0, nets).x0
        return float((target - solution(VE40, batch.x_t, t, torch.zeros_like(t))).norm())

    assert order(error, 16) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("step", "solver"), [("ddim", "ddim_ve"), ("heun", "rk")])
def test_cd_is_one_phase_of_tract_edm_but_for_boundary_metric_and_average(step, solver):
    times = CD().times(uniforms(32), Phase(40, 1), 0.0, VE40)
    batch = random_batch(VE40, times)
    nets = Nets(exact_denoiser(VE40), exact_jump(VE40), unused)
    ours = CD(teacher_step=step).target(batch, Phase(40, 1), 0.0, nets).x0
    tract = TRACTEDM(teacher_solver=solver, clip_target=False).target(batch, Phase(40, 1), 0.0, nets).x0
    # its inverse to t = 0 divides by sigma what was multiplied by it
    torch.testing.assert_close(ours, tract, rtol=1e-10, atol=1e-10)


def test_the_boundary_condition_is_edm_s_network_with_the_coefficients_of_consistency_models():
    denoiser = SigmaDenoiser(tiny_network(), VE40)
    sigma = torch.tensor([0.002, 0.01, 0.7, 80.0], dtype=torch.float64)
    x = torch.randn((4, 3, 1, 1), dtype=torch.float64, generator=generator("x"))
    c = EDM().coefficients(sigma)
    raw = denoiser.net(per_sample(c.scale, x) * x, c.noise)
    c_skip = 0.25 / ((sigma - 0.002) ** 2 + 0.25)
    c_out = 0.5 * (sigma - 0.002) / (0.25 + sigma**2).sqrt()
    f = BoundedDenoiser(denoiser, VE40)(x, VE40.time(sigma))
    torch.testing.assert_close(f, per_sample(c_skip, x) * x + per_sample(c_out, x) * raw, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(f[0], x[0], rtol=1e-9, atol=0)  # f(x, sigma_min) = x


# --- multistep consistency distillation


def test_mscd_draws_times_in_segments_and_steps_that_grow_geometrically():
    method, u = MSCD(growth=0.5), uniforms(64)
    for progress, steps in ((0.0, 64), (0.25, 256), (0.5, 1024), (0.9, 1024)):
        times = method.times(u, Phase(1024, 4), progress, VP_)
        assert bool((times.t > 0).all())
        assert bool((times.t <= 1).all())
        segment = times.t_end * 4
        assert torch.equal(segment, segment.round())
        assert bool((times.t - times.t_end <= 0.25).all())
        assert bool((times.t_end < times.t).all())
        torch.testing.assert_close(times.t_next, torch.maximum(times.t - 1 / steps, times.t_end), rtol=0, atol=1e-12)
    assert float(method.times(torch.zeros((1, 2), dtype=torch.float64), Phase(1024, 4), 0.0, VP_).t) == 1.0


@pytest.mark.parametrize("phase", [Phase(16, 1), Phase(16, 4)])
def test_mscd_with_a_self_teacher_on_a_fixed_grid_is_tract(phase):
    batch = random_batch(VP_, group_times(uniforms(64), phase))
    student = exact_jump(VP_, lambda t: (torch.ceil(t * phase.end) - 1).clamp(min=0) / phase.end)
    mscd = MSCD(loss_weight="snr").target(batch, phase, 0.5, Nets(exact_denoiser(VP_), unused, student))
    tract = TRACT(clip_target=False, loss_weight="snr").target(
        batch, phase, 0.5, Nets(exact_denoiser(VP_), student, unused)
    )
    assert torch.equal(mscd.x0, tract.x0)
    assert torch.equal(mscd.weight, tract.weight)


def test_mscd_s_target_of_an_exact_student_is_exact_to_second_order():
    ends = torch.tensor([0.0, 0.5], dtype=torch.float64)
    t = torch.tensor([0.4, 0.8], dtype=torch.float64)
    student = exact_jump(VP_, lambda t: torch.floor(2 * t) / 2)

    def error(steps):
        batch = random_batch(VP_, Times(t, t - 1 / steps, ends))
        target = MSCD().target(batch, Phase(1024, 2), 0.5, Nets(exact_denoiser(VP_), unused, student))
        return float((target.x0 - student(batch.x_t, t)).norm())

    assert order(error, 64) == pytest.approx(2, abs=0.1)


def test_mscd_s_weight_is_that_of_v_and_its_distance_a_huber_loss():
    times = at((0.25, 0.125, 0.0))
    batch = random_batch(VP_, times)
    nets, sigma = Nets(exact_denoiser(VP_), unused, exact_jump(VP_)), float(VP_.sigma(times.t))
    # v = alpha eps - sigma x, so |v - v'| = |x - x'| / sigma for the same z_t
    for kind, expected in (("v", sigma**-2), ("v_norm", 1 / sigma), ("uniform", 1.0)):
        target = MSCD(loss_weight=kind).target(batch, Phase(8, 1), 0.0, nets)
        assert float(target.weight) == pytest.approx(expected)
    a, b = torch.zeros((2, 4), dtype=torch.float64), torch.tensor([[1.0, 1, -1, 1], [0, 0, 0, 0]], dtype=torch.float64)
    assert MSCD().distance(a, b).tolist() == pytest.approx([math.sqrt(1 + 1e-8), 1e-4])


def test_adjusted_ddim_gives_back_the_variance_that_averaging_loses():
    batch = random_batch(VP_, at((0.75, 0.5, 0.0), (0.3, 0.29, 0.25)))
    seen = []

    def student(x, t, labels=None):
        seen.append(x)
        return torch.zeros_like(x)

    for eta in (0.0, 1.0):
        MSCD(adjustment=eta).target(batch, Phase(4, 4 // 2), 0.0, Nets(exact_denoiser(VP_), unused, student))
    t, s = batch.times.t, batch.times.t_next
    x0 = exact_denoiser(VP_)(batch.x_t, t)
    alpha = per_sample(VP_.alpha(s), x0)
    plain, adjusted = ((x - alpha * x0).square().flatten(1).sum(1) for x in seen)
    k = VP_.alpha(s) - VP_.alpha(t) * VP_.sigma(s) / VP_.sigma(t)
    torch.testing.assert_close(adjusted - plain, k**2 * (batch.x0 - x0).square().flatten(1).sum(1))


# --- easy consistency tuning


def test_ect_s_pairs_come_nearer_stage_by_stage():
    method, u = ECT(), uniforms(256)
    for progress, stage in ((0.0, 0), (0.124, 0), (0.125, 1), (0.99, 7)):
        times = method.times(u, Phase(40, 1), progress, VE40)
        sigma, r = VE40.sigma(times.t), VE40.sigma(times.t_next)
        n = 1 + 8 / (1 + torch.exp(sigma))
        torch.testing.assert_close(r, (sigma * (1 - n / 2 ** (stage + 1))).clamp(min=0), rtol=1e-9, atol=1e-12)
    assert bool((r > 0).all())  # 2^8 is more than any n


def test_ect_s_target_shares_the_noise_and_is_the_image_where_r_is_zero():
    batch = random_batch(VE40, at((0.5, 0.0, 0.0), (0.5, 0.25, 0.0)))
    asked = []

    def student(x, t, labels=None):
        asked.append((x, t))
        return x

    target = ECT().target(batch, Phase(40, 1), 0.0, Nets(unused, unused, student))
    sigma, r = VE40.sigma(batch.times.t), VE40.sigma(batch.times.t_next)
    assert torch.equal(target.x0[0], batch.x0[0])
    torch.testing.assert_close(target.x0[1], batch.x0[1] + r[1] * batch.noise[1])
    torch.testing.assert_close(target.weight, 1 / (sigma - r))
    assert bool((asked[0][1] > 0).all())


def test_ect_s_expected_target_of_an_exact_student_is_exact_to_second_order():
    t = VE40.time(torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64))

    def error(steps):
        r = VE40.time(VE40.sigma(t) * math.exp(-1 / steps))
        batch = expected_batch(VE40, Times(t, r, torch.zeros_like(t)))
        target = ECT().target(batch, Phase(40, 1), 0.5, Nets(unused, unused, exact_jump(VE40))).x0
        return float((target - solution(VE40, batch.x_t, t, torch.zeros_like(t))).norm())

    assert order(error, 32) == pytest.approx(2, abs=0.1)


# --- what all methods share


@pytest.mark.parametrize("method", [CD(), ECT(), SCM()])
def test_a_repeated_entry_is_regression_on_the_teacher_in_edm_s_weight(method):
    phase = Phase(40, 40)
    times = method.times(uniforms(16), phase, 0.0, VE40)
    batch = random_batch(VE40, times)
    nets = Nets(exact_denoiser(VE40), unused, unused)
    student = SigmaDenoiser(tiny_network(), VE40)
    loss = method.objective(batch, phase, 0.0, nets, student)
    c = EDM().coefficients(VE40.sigma(times.t))
    raw = (student(batch.x_t, times.t) - exact_denoiser(VE40)(batch.x_t, times.t)) / per_sample(c.out, batch.x_t)
    torch.testing.assert_close(loss, raw.square().flatten(1).mean(1))
    assert torch.equal(loss, regression(batch, nets, student))


@pytest.mark.parametrize("method", [CD, MSCD, ECT, SCM])
def test_options_are_described(method):
    assert all(field.description for field in method.model_fields.values())


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        (ECT, {"stages": 60}, "take at most 30 stages"),
        (ECT, {"q": 256.0}, "take at most 3 stages"),
        (ECT, {"noise_mean": math.nan}, "finite"),
        (ECT, {"noise_std": 100.0}, "less than or equal to 4"),
        (SCM, {"levels": (math.inf,)}, "finite"),
        (MSCD, {"adjustment": math.inf}, "finite"),
    ],
)
def test_options_that_leave_no_finite_loss_are_refused(method, values, words):
    with pytest.raises(ValidationError, match=words):
        method(**values)


@pytest.mark.parametrize("last", [ECT(stages=30), ECT(q=1e6, stages=1), ECT(noise_mean=-10, noise_std=4)])
def test_the_narrowest_gap_is_one(last):
    u = torch.rand((4096, 2), generator=generator("gap"), dtype=torch.float64)
    u[0] = 0
    times = last.times(u, Phase(40, 1), 0.999, VE40)
    assert bool((VE40.sigma(times.t) > VE40.sigma(times.t_next)).all())
