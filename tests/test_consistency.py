"""The consistency family against closed forms on one Gaussian N(M, S), whose probability-flow ODE has a formula."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tractbench.consistency import consistency_sampler, derivative_along, log_normal_levels, pseudo_huber, regression
from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.denoiser import SigmaDenoiser
from tractbench.diffusion.preconditioning import EDM, SIGMA_DATA
from tractbench.diffusion.processes import VE, VP, per_sample
from tractbench.diffusion.solvers import ddim_inverse, sample_ode
from tractbench.errors import ConfigError
from tractbench.method import Batch, Nets, Phase, Times, group_times
from tractbench.methods.cd import CD, BoundedDenoiser
from tractbench.methods.ect import ECT
from tractbench.methods.mscd import MSCD
from tractbench.methods.scm import SCM, in_trigflow, raw_output
from tractbench.methods.tract import TRACT
from tractbench.methods.tract_edm import TRACTEDM
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


def at(*triples):
    return Times(*torch.tensor(triples, dtype=torch.float64).T)


def uniforms(count, width=2, seed=0):
    return torch.rand((count, width), dtype=torch.float64, generator=generator("uniforms", seed))


def order(error, steps):
    """The observed order of an error as a function of the number of steps."""
    return math.log2(error(steps) / error(2 * steps))


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


# --- continuous time


def test_scm_asks_no_teacher_below_the_levels_that_its_network_knows():
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1, None].repeat(1, 2)
    limited = replace(VE40, network_sigma_min=0.02)
    free, sigma = (one.sigma(SCM().times(u, Phase(40, 1), 0.0, one).t) for one in (VE40, limited))
    assert float(free.min()) < 0.01
    torch.testing.assert_close(sigma, free.clamp(min=0.02))
    assert limited.key == VE40.key | {"network_sigma_min": 0.02}  # its students have names of their own


ANGLES = torch.tensor([0.004, 0.3, 1.1, 1.4, 1.55], dtype=torch.float64)
EVERYWHERE = VE40.time(SIGMA_DATA * torch.tan(ANGLES))


def everywhere():
    return Times(EVERYWHERE, EVERYWHERE, torch.zeros_like(EVERYWHERE))


def test_raw_output_is_minus_edm_s_network():
    denoiser = SigmaDenoiser(tiny_network(), VE40)
    x = torch.randn((5, 3, 1, 1), dtype=torch.float64, generator=generator("x"))
    sigma = SIGMA_DATA * torch.tan(ANGLES)
    x0 = denoiser(x / per_sample(torch.cos(ANGLES), x), EVERYWHERE)
    expected = -denoiser.net(x / SIGMA_DATA, sigma.log() / 4)  # c_in x_sigma = x / sigma_data
    torch.testing.assert_close(raw_output(x, ANGLES, x0), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("velocity", ["teacher", "data"])
def test_the_tangent_of_an_exact_consistency_function_vanishes_at_all_times(velocity):
    make = random_batch if velocity == "teacher" else expected_batch
    nets = Nets(exact_denoiser(VE40), unused, exact_jump(VE40))
    frozen, g = SCM(velocity=velocity, difference=0).tangent_of(make(VE40, everywhere()), nets, 1.0)
    assert float(frozen.abs().max()) > 0.1
    torch.testing.assert_close(g, torch.zeros_like(g), rtol=0, atol=1e-8)


def test_the_tangent_is_cos_times_the_derivative_along_the_teacher_s_path():
    student = SigmaDenoiser(tiny_network(), VE40)
    batch = random_batch(VE40, everywhere())
    _, g = SCM(difference=0).tangent_of(batch, Nets(exact_denoiser(VE40), unused, student), 1.0)

    def f(shift):
        angle = ANGLES + shift
        t = VE40.time(SIGMA_DATA * torch.tan(angle))
        return student(solution(VE40, batch.x_t, EVERYWHERE, t), t)

    step = 1e-5
    slope = (f(step) - f(-step)) / (2 * step)
    torch.testing.assert_close(g, per_sample(torch.cos(ANGLES), slope) * slope, rtol=1e-4, atol=1e-5)


def test_differences_tend_to_the_derivative_with_their_step():
    nets = Nets(exact_denoiser(VE40), unused, exact_denoiser(VE40))
    batch = random_batch(VE40, everywhere())
    _, exact = SCM(difference=0).tangent_of(batch, nets, 1.0)

    def error(steps):
        return float((SCM(difference=1 / steps).tangent_of(batch, nets, 1.0)[1] - exact).norm())

    assert error(100) < 0.1 * float(exact.norm())
    assert order(error, 100) == pytest.approx(1, abs=0.1)


def test_the_tangent_starts_with_its_stable_term_alone():
    student = SigmaDenoiser(tiny_network(), VE40)
    batch = random_batch(VE40, everywhere())
    frozen, g = SCM().tangent_of(batch, Nets(exact_denoiser(VE40), unused, student), 0.0)
    cos, sin = (per_sample(value, g) for value in (torch.cos(ANGLES), torch.sin(ANGLES)))
    velocity = (cos * cos * batch.x_t - exact_denoiser(VE40)(batch.x_t, EVERYWHERE)) / sin
    torch.testing.assert_close(g, -(cos**2) * (SIGMA_DATA * frozen - velocity))


class Scaled(nn.Module):
    """A denoiser times a parameter."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.scale = denoiser, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, t, labels=None, *t_end):
        return self.scale * self.denoiser(x, t, labels, *t_end)


@pytest.mark.parametrize("method", [SCM(difference=0), SCM(difference=0, weighting="none", tangent="clip")])
def test_an_exact_student_is_a_fixed_point_of_scm(method):
    batch = random_batch(VE40, everywhere())
    nets = Nets(exact_denoiser(VE40), unused, exact_jump(VE40), method.modules((3, 1, 1)))
    right, wrong = Scaled(exact_jump(VE40)), Scaled(exact_jump(VE40))
    method.objective(batch, Phase(40, 1), 0.9, nets, right).sum().backward()
    assert abs(float(right.scale.grad)) < 1e-6
    off = Nets(nets.teacher, unused, lambda x, t, labels=None: 0.9 * exact_jump(VE40)(x, t), nets.modules)
    method.objective(batch, Phase(40, 1), 0.9, off, wrong).sum().backward()
    assert abs(float(wrong.scale.grad)) > 1e-2


def test_the_weighting_starts_at_one_and_learns_the_inverse_of_the_error():
    weighting = SCM().modules((3, 1, 1))["weighting"]
    assert torch.equal(weighting(ANGLES), torch.zeros(5))
    assert SCM(weighting="none").modules((3, 1, 1)) == {}


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


# --- forward mode through the networks

UNET = {"channels": 1, "size": 8, "width": 32, "embedding": 16, "multipliers": (1, 1), "blocks": 1, "attention": (4,)}
NETWORKS = [
    ("mlp", {"channels": 1, "size": 8, "width": 16, "blocks": 1, "embedding": 8, "c_noise": 1}),
    ("song_unet", {**UNET, "noise_width": 16, "fourier": False, "auxiliary": False, "taps": (1, 1)}),
    ("song_unet", {**UNET, "noise_width": 16, "fourier": True, "auxiliary": True, "taps": (1, 3, 3, 1)}),
    ("dhariwal_unet", {**UNET}),
    ("google_unet", {**UNET, "head_width": 16}),
]


@pytest.mark.parametrize(("name", "arguments"), NETWORKS)
def test_derivatives_along_a_direction_pass_through_every_network(name, arguments):
    net = build_network(name, arguments, generator(name)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator("more")))
    x, dx = (torch.randn((2, 1, 8, 8), dtype=torch.float64, generator=generator(n)) for n in ("x", "dx"))
    noise, dnoise = torch.tensor([-0.3, 0.2], dtype=torch.float64), torch.tensor([0.5, -0.4], dtype=torch.float64)
    with torch.no_grad():
        with sdpa_kernel(SDPBackend.MATH):  # as the engine does: fused attention has no such derivative
            value, slope = derivative_along(net, x, noise, dx, dnoise)
        torch.testing.assert_close(value, net(x, noise), rtol=1e-10, atol=1e-12)
        step = 2e-5
        stencil = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}  # of fourth order: embeddings turn fast
        differences = [weight * net(x + k * step * dx, noise + k * step * dnoise) for k, weight in stencil.items()]
    torch.testing.assert_close(slope, sum(differences) / step, rtol=1e-5, atol=1e-6)
    assert float(slope.abs().max()) > 1e-2


@pytest.mark.parametrize(("name", "arguments"), NETWORKS)
def test_networks_take_an_embedding_beside_that_of_the_noise_level(name, arguments):
    from tractbench.nets.embedding import embedding_width

    net = build_network(name, arguments, generator(name))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05)
        x, noise = torch.randn((2, 1, 8, 8), generator=generator("x")), torch.tensor([-0.3, 0.2])
        plain = net(x, noise)
        width = embedding_width(net)
        assert torch.equal(net(x, noise, extra=torch.zeros((2, width))), plain)
        assert not torch.allclose(net(x, noise, extra=torch.ones((2, width))), plain)


def test_in_trigflow_is_the_network_of_the_state():
    denoiser = SigmaDenoiser(tiny_network(), VE40)
    x = torch.randn((5, 3, 1, 1), dtype=torch.float64, generator=generator("x"))
    expected = -denoiser.net(x / SIGMA_DATA, (SIGMA_DATA * torch.tan(ANGLES)).log() / 4)
    torch.testing.assert_close(in_trigflow(denoiser, VE40, None)(x, ANGLES), expected, rtol=1e-8, atol=1e-8)


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
