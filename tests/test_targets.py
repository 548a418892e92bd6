import math
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tractbench.config.fields import RunConfig
from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VE, VP, Scales
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import ddim_step, sample_ode
from tractbench.errors import ConfigError
from tractbench.evaluation.sampling import prior_labels, sample
from tractbench.method import Batch, Nets, Phase, Times
from tractbench.methods.btd import BTD
from tractbench.methods.tract import TRACT
from tractbench.methods.tract_edm import TRACTEDM
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench.training.distillation import Distillation

pytestmark = pytest.mark.usefixtures("one_thread")


# One Gaussian N(M, S) in three dimensions: every chain of solver steps is an affine map A x + b, written with numpy.
M = np.array([0.3, -0.6, 0.1])
S = np.array([[0.5, 0.2, -0.05], [0.2, 0.3, 0.02], [-0.05, 0.02, 0.04]])  # eigenvalues 0.63, 0.18 and 0.03
ONE = np.eye(3)


def vp_scales(u):
    """Alpha and sigma as square roots of gamma and 1 - gamma, from logSNR."""
    low, high = math.atan(math.exp(-10)), math.atan(math.exp(10))
    log_snr = -2 * math.log(math.tan(low + u * (high - low)))
    return 1 / math.sqrt(1 + math.exp(-log_snr)), 1 / math.sqrt(1 + math.exp(log_snr))


def ve_sigma(index, points):
    if index == 0:
        return 0.0
    share = (index - 1) / (points - 1)
    return ((1 - share) * 0.002 ** (1 / 7) + share * 80 ** (1 / 7)) ** 7


def scales(process, index, steps):
    return vp_scales(index / steps) if process == "vp" else (1.0, ve_sigma(index, steps))


def denoiser_map(alpha, sigma):
    """G, g with E[x0 | x] = G x + g."""
    gain = alpha * S @ np.linalg.inv(alpha**2 * S + sigma**2 * ONE)
    return gain, M - alpha * gain @ M


def ddim_map(before, after):
    (alpha, sigma), (beta, tau) = before, after
    gain, offset = denoiser_map(alpha, sigma)
    share = beta - tau * alpha / sigma  # x' = beta x0 + tau (x - alpha x0) / sigma
    return share * gain + tau / sigma * ONE, share * offset


def heun_map(before, after):
    """VE only: x' = x + (tau - sigma)(d + d') / 2."""
    (_, sigma), (_, tau) = before, after
    slope, offset = ddim_map(before, after)
    gain, constant = denoiser_map(1.0, sigma)
    gain_after, constant_after = denoiser_map(1.0, tau)
    half = (tau - sigma) / 2
    d = (ONE - gain) / sigma, -constant / sigma
    d_after = (ONE - gain_after) @ slope / tau, ((ONE - gain_after) @ offset - constant_after) / tau
    return ONE + half * (d[0] + d_after[0]), half * (d[1] + d_after[1])


@cache
def chain(process, solver, steps, first, last):
    """A, b of the teacher's steps from index ``first`` to ``last``; Heun's step to sigma 0 is DDIM's."""
    slope, offset = ONE, np.zeros(3)
    for index in range(first, last, -1):
        before, after = scales(process, index, steps), scales(process, index - 1, steps)
        a, b = heun_map(before, after) if solver == "rk" and index > 1 else ddim_map(before, after)
        slope, offset = a @ slope, a @ offset + b
    return slope, offset


def one_step_x0(process, steps, first, last, x, x_end):
    """The x0 that a single DDIM step from index ``first`` would need to end at x_end."""
    (alpha, sigma), (beta, tau) = scales(process, first, steps), scales(process, last, steps)
    return (x_end - tau / sigma * x) / (beta - tau * alpha / sigma)


PROCESSES = {"vp": lambda steps: VP(), "ve": VE}


def exact_denoiser(process):
    return MixtureDenoiser(process, torch.ones(1), torch.tensor(M)[None], torch.tensor(S)[None])


def exact_self_teacher(name, solver, phase):
    """Jumps from any time in a group to the group's end along the teacher's own chain."""

    def denoise(x, t, labels=None):
        rows = []
        for row, u in zip(x.flatten(1).numpy(), t.tolist(), strict=True):
            index = round(u * phase.start)
            end = index // phase.group * phase.group
            if end == index:  # at the group's end already: what is returned must not matter
                rows.append(np.full(3, np.nan))
                continue
            slope, offset = chain(name, solver, phase.start, index, end)
            rows.append(one_step_x0(name, phase.start, index, end, row, slope @ row + offset))
        return torch.tensor(np.stack(rows)).reshape(x.shape)

    return denoise


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


def expected_targets(name, solver, phase, batch):
    rows = []
    for x, t, t_end in zip(
        batch.x_t.flatten(1).numpy(), batch.times.t.tolist(), batch.times.t_end.tolist(), strict=True
    ):
        first, last = round(t * phase.start), round(t_end * phase.start)
        slope, offset = chain(name, solver, phase.start, first, last)
        rows.append(one_step_x0(name, phase.start, first, last, x, slope @ x + offset))
    return torch.tensor(np.stack(rows)).reshape(batch.x_t.shape)


def assert_near(found, expected, atol=1e-10):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


# the teacher's chain


@pytest.mark.parametrize(
    ("name", "solver", "steps"),
    [("vp", "ddim", 1), ("vp", "ddim", 7), ("vp", "ddim", 256), ("ve", "ddim", 40), ("ve", "rk", 40), ("ve", "rk", 9)],
)
def test_the_teachers_chain_is_an_affine_map(name, solver, steps):
    process = PROCESSES[name](steps)
    x = process.prior_std * torch.randn((5, 3, 1, 1), dtype=torch.float64, generator=generator("chain"))
    slope, offset = chain(name, solver, steps, steps, 0)
    kind = "heun" if solver == "rk" else "ddim"
    found = sample_ode(exact_denoiser(process), process, x, Sampler.equal(steps, kind), clip=False)
    assert_near(found.flatten(1), torch.tensor(x.flatten(1).numpy() @ slope.T + offset))


# the fixed point: with an exact self-teacher every target is the one-step form of the teacher's chain

METHODS = {
    "btd": (BTD(clip_target=False, final_target="inverse"), "vp", "ddim"),
    "tract": (TRACT(clip_target=False), "vp", "ddim"),
    "tract_edm euler": (TRACTEDM(clip_target=False, teacher_solver="ddim_ve"), "ve", "ddim"),
    "tract_edm": (TRACTEDM(clip_target=False), "ve", "rk"),
}


def assert_fixed_point(case, phase, seed=0):
    method, name, solver = METHODS[case]
    process = PROCESSES[name](phase.start)
    batch = batch_at(every_time(method, phase), process, seed=seed)
    self_teacher = exact_self_teacher(name, solver, phase) if method.self_teacher else unused
    target = method.target(batch, phase, 0.0, Nets(exact_denoiser(process), self_teacher, unused)).x0
    assert_near(target, expected_targets(name, solver, phase, batch))
    # and a student that gives the target lands where the chain does
    ends = ddim_step(process, batch.x_t, target, batch.times.t, batch.times.t_end)
    for x, end, t, t_end in zip(batch.x_t, ends, batch.times.t.tolist(), batch.times.t_end.tolist(), strict=True):
        slope, offset = chain(name, solver, phase.start, round(t * phase.start), round(t_end * phase.start))
        assert_near(end.flatten(), torch.tensor(slope @ x.flatten().numpy() + offset))


@pytest.mark.parametrize(
    ("case", "start", "end"),
    [
        ("btd", 2, 1),
        ("btd", 16, 8),
        ("btd", 256, 128),
        ("tract", 2, 1),
        ("tract", 32, 1),
        ("tract", 60, 5),
        ("tract_edm euler", 40, 1),
        ("tract_edm euler", 40, 5),
        ("tract_edm", 40, 1),
        ("tract_edm", 40, 8),
    ],
)
def test_targets_are_the_one_step_form_of_the_teachers_chain(case, start, end):
    assert_fixed_point(case, Phase(start, end))


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(["tract", "tract_edm euler", "tract_edm"]), st.integers(1, 6), st.integers(2, 8), st.integers(0, 9)
)
def test_the_fixed_point_holds_for_any_phase(case, end, group, seed):
    assert_fixed_point(case, Phase(end * group, end), seed)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(METHODS)), st.integers(1, 16), st.integers(1, 16), st.floats(-1, 1))
def test_a_constant_denoiser_is_its_own_target(case, end, group, value):
    method, name, _ = METHODS[case]
    phase = Phase(end * (min(group, 2) if case == "btd" else group), end)
    process = VE(40 * phase.start) if name == "ve" else VP()
    batch = batch_at(every_time(method, phase), process)
    target = method.target(batch, phase, 0.0, Nets(*[lambda x, t, labels: torch.full_like(x, value)] * 3)).x0
    assert_near(target, torch.full_like(target, value))


# how the methods relate


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("start", "end"), [(2, 1), (8, 4), (1024, 512)])
def test_tract_in_pairs_with_the_teacher_as_self_teacher_is_btd(start, end, clip):
    phase = Phase(start, end)
    btd, tract = BTD(clip_target=clip, final_target="inverse"), TRACT(clip_target=clip)
    batch = batch_at(every_time(btd, phase), VP())  # k = 0 only
    ours, theirs = (m.target(batch, phase, 0.0, Nets(curved, curved, unused)) for m in (tract, btd))
    assert_near(ours.x0, theirs.x0, 1e-12)
    assert torch.equal(ours.weight, theirs.weight)


class Rescaled:
    """VP seen in the coordinates x / alpha: variance exploding, with sigma = tan(phi)."""

    name, prior_std = "rescaled", 1.0

    def alpha(self, t):
        return torch.ones_like(t)

    def sigma(self, t):
        return torch.tensor([vp_scales(u)[1] / vp_scales(u)[0] for u in t.tolist()], dtype=torch.float64)

    def log_snr(self, t):
        return -2 * self.sigma(t).log()

    def scales(self, t, s):
        sigma_t, sigma_s = self.sigma(t), self.sigma(s)
        return Scales(sigma_t, sigma_s, sigma_t - sigma_s)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("start", "end"), [(16, 1), (24, 6)])
def test_tract_edm_is_tract_in_rescaled_coordinates(start, end, clip):
    phase = Phase(start, end)
    batch = batch_at(every_time(TRACT(), phase), VP())

    def self_teacher(x, t, labels=None):
        return torch.sin(3 * x) * 2

    def rescaled(denoise):
        return lambda x, t, labels: denoise(x * VP().alpha(t).reshape(-1, 1, 1, 1), t, labels)

    x_ve = batch.x_t / VP().alpha(batch.times.t).reshape(-1, 1, 1, 1)
    ve_batch = Batch(x_ve, batch.times, None, batch.x0, batch.noise, Rescaled())
    vp = TRACT(clip_target=clip).target(batch, phase, 0.0, Nets(curved, self_teacher, unused))
    ve = TRACTEDM(clip_target=clip, teacher_solver="ddim_ve").target(
        ve_batch, phase, 0.0, Nets(rescaled(curved), rescaled(self_teacher), unused)
    )
    # the teacher's last step is TRACT-EDM's own: its x0 is never clipped; TRACT's is where clipping is asked for
    last = batch.times.t_next == 0
    expected = vp.x0.clone()
    expected[last] = curved(batch.x_t, batch.times.t)[last]
    # at t = 1 the coordinates are divided by alpha = 4.5e-5
    assert_near(ve.x0, expected, 1e-9)


@pytest.mark.parametrize(("start", "end"), [(2, 1), (8, 4), (1024, 512)])
def test_the_two_final_targets_of_btd_differ_by_the_known_amount(start, end):
    phase = Phase(start, end)
    batch = batch_at(every_time(BTD(), phase), VP())
    nets = Nets(curved, unused, unused)
    inverse, released = (
        BTD(final_target=kind).target(batch, phase, 0.0, nets).x0 for kind in ("inverse", "teacher_x0")
    )
    last = batch.times.t_end == 0
    assert int(last.sum()) == 1
    assert torch.equal(inverse[~last], released[~last])

    t, t_next = float(batch.times.t[last]), float(batch.times.t_next[last])
    (a, s), (a_next, s_next), (a_0, s_0) = (vp_scales(u) for u in (t, t_next, 0.0))
    x_t = batch.x_t[last]
    x0 = curved(x_t, batch.times.t[last])
    x0_next = curved(a_next * x0 + s_next * (x_t - a * x0) / s, batch.times.t_next[last])
    # sin(phi - phi') = sin phi cos phi' - cos phi sin phi'
    factor = s_0 * (s * a_next - a * s_next) / (s_next * (s * a_0 - a * s_0))
    assert_near(released[last], x0_next, 1e-12)
    torch.testing.assert_close(inverse[last] - released[last], -(x0_next - x0) * factor, rtol=1e-7, atol=1e-13)
    assert bool((inverse[last] != released[last]).all())


# rules of single methods


@pytest.mark.parametrize("case", METHODS)
@pytest.mark.parametrize("steps", [1, 4, 40])
def test_a_repeated_entry_is_regression_on_the_teachers_x0(case, steps):
    method, name, _ = METHODS[case]
    phase = Phase(steps, steps)
    process = PROCESSES[name](40)
    batch = batch_at(every_time(method, phase), process)
    target = method.target(batch, phase, 0.0, Nets(curved, broken, unused)).x0
    assert len(target) == steps
    assert_near(target, curved(batch.x_t, batch.times.t))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("solver", ["rk", "ddim_ve"])
@pytest.mark.parametrize(("start", "end"), [(40, 1), (40, 20)])
def test_no_network_is_asked_at_sigma_zero_and_the_teachers_x0_is_never_clipped_there(solver, start, end, clip):
    phase, process = Phase(start, end), VE()
    method = TRACTEDM(teacher_solver=solver, clip_target=clip)
    batch = batch_at(every_time(method, phase), process)
    last = batch.times.t_next == 0
    assert bool(last.any())

    def teacher(x, t, labels=None):
        assert bool((process.sigma(t) > 0).all())
        return curved(x, t)

    def self_teacher(x, t, labels=None):
        assert bool((process.sigma(t) > 0).all())
        return torch.where(last.reshape(-1, 1, 1, 1), math.nan, curved(x, t))

    target = method.target(batch, phase, 0.0, Nets(teacher, self_teacher, unused))
    assert bool(target.x0.isfinite().all())
    assert bool(target.weight.isfinite().all())
    assert torch.equal(target.x0[last], curved(batch.x_t, batch.times.t)[last])


@pytest.mark.parametrize(("clip", "limit"), [(False, 3.0), (True, 1.0)])
def test_a_repeated_entry_of_tract_edm_is_clipped_but_where_it_ends_at_sigma_zero(clip, limit):
    phase = Phase(4, 4)
    batch = batch_at(every_time(TRACTEDM(), phase), VE(4))

    def large(x, t, labels=None):
        return torch.full_like(x, 3.0)

    found = TRACTEDM(clip_target=clip).target(batch, phase, 0.0, Nets(large, broken, unused)).x0
    expected = torch.where(batch.times.t_next == 0, 3.0, limit).double().reshape(-1, 1, 1, 1).expand_as(found)
    assert_near(found, expected)


@pytest.mark.parametrize("solver", ["rk", "ddim_ve"])
def test_clipping_limits_ddim_jumps_but_no_rk_step(solver):
    def too_large(x, t, labels=None):
        return torch.full_like(x, 3.0)

    def small(x, t, labels=None):
        return torch.full_like(x, 1.0)

    phase = Phase(40, 1)
    every = every_time(TRACTEDM(), phase)
    inner = Times(*(part[2:] for part in (every.t, every.t_next, every.t_end)))  # neither the end nor the last step
    batch, method = batch_at(inner, VE()), TRACTEDM(teacher_solver=solver)
    # the self-teacher's jump to sigma 0 is its x0, and so is the target, whatever the teacher says
    for teacher in (too_large, small):
        found = method.target(batch, phase, 0.0, Nets(teacher, too_large, unused)).x0
        assert_near(found, torch.ones_like(found))
    # with n = 2 the teacher's share of the target shows whether its step was clipped
    phase = Phase(40, 20)
    times = every_time(method, phase)
    upper = times.t_end > 0
    times = Times(*(part[upper] for part in (times.t, times.t_next, times.t_end)))
    batch = batch_at(times, VE())
    found = method.target(batch, phase, 0.0, Nets(too_large, small, unused)).x0
    sigma, sigma_next, sigma_end = (VE().sigma(part) for part in (times.t, times.t_next, times.t_end))
    said = 3.0 if solver == "rk" else 1.0
    share = (sigma - sigma_next) * sigma_end / (sigma_next * (sigma - sigma_end))
    value = torch.where(times.t_next == times.t_end, said, 1.0 + (said - 1.0) * share)
    assert_near(found, value.reshape(-1, 1, 1, 1).expand_as(found), 1e-9)


@pytest.mark.parametrize("schedule", [(1024, 256), (16, 8, 2, 1), (9, 3)])
def test_btd_refuses_more_than_halving(schedule):
    with pytest.raises(ConfigError, match="btd halves the steps in each phase"):
        BTD().phases(schedule)


@pytest.mark.parametrize(("nfe", "phases"), [(1, 10), (2, 9), (8, 7), (512, 1)])
def test_btd_halves_down_to_the_evaluations(nfe, phases):
    found = BTD().phases(BTD().default_schedule(nfe))
    assert [phase.group for phase in found] == [2] * phases
    assert (found[0].start, found[-1].end) == (1024, nfe)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 512), st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_btd_draws_only_whole_groups(end, first, second):
    times = BTD().times(torch.tensor([[first, second]], dtype=torch.float64), Phase(2 * end, end), 0.5, VP())
    index = round(float(times.t) * end)
    assert 1 <= index <= end
    assert float(times.t) == index / end
    assert (float(times.t_next), float(times.t_end)) == ((2 * index - 1) / (2 * end), (index - 1) / end)


@pytest.mark.parametrize("method", [BTD, TRACT])
@pytest.mark.parametrize(
    ("kind", "weight"), [("snr", lambda r: r), ("truncated_snr", lambda r: max(r, 1.0)), ("uniform", lambda r: 1.0)]
)
def test_vp_targets_are_weighted_by_the_snr_of_t(method, kind, weight):
    batch = batch_at(every_time(method(), Phase(8, 4)), VP())
    found = method(loss_weight=kind).target(batch, Phase(8, 4), 0.0, Nets(curved, curved, unused)).weight
    ratios = [(alpha / sigma) ** 2 for alpha, sigma in map(vp_scales, batch.times.t.tolist())]
    assert found.tolist() == pytest.approx([weight(r) for r in ratios], rel=1e-10)


# classes


@pytest.mark.parametrize("case", METHODS)
def test_every_network_is_given_the_labels(case):
    method, name, _ = METHODS[case]
    phase = Phase(4, 2)
    asked = {"teacher": [], "self_teacher": []}

    def recorder(role):
        return lambda x, t, labels: asked[role].append(labels) or torch.zeros_like(x)

    times = every_time(method, phase)
    labels = torch.arange(len(times.t))
    batch = batch_at(times, PROCESSES[name](4), labels=labels)
    method.target(batch, phase, 0.0, Nets(recorder("teacher"), recorder("self_teacher"), unused))
    teacher_calls = {"btd": 2, "tract": 1, "tract_edm euler": 1, "tract_edm": 2}[case]
    assert (len(asked["teacher"]), len(asked["self_teacher"])) == (teacher_calls, int(method.self_teacher))
    assert all(given is labels for calls in asked.values() for given in calls)


class Watched(X0Denoiser):
    seen: ClassVar[list] = []

    def forward(self, x_t, t, labels=None):
        Watched.seen.append((self.training, labels))
        return super().forward(x_t, t, labels)


CLASSES = 5


def conditional_distillation():
    arguments = {"channels": 1, "size": 2, "width": 8, "blocks": 1, "embedding": 4, "classes": CLASSES}
    teacher = Watched(build_network("mlp", arguments, generator("tests", "conditional")), VP())
    teacher.requires_grad_(False).eval()
    labels = torch.arange(20) % (CLASSES - 1)  # no image of the last class
    images = (labels / 10)[:, None, None, None].expand(20, 1, 2, 2)  # the class can be read off an image
    config = RunConfig(
        method="tract", dataset="digits", tier="smoke", teacher="t", grid_steps=1024, schedule=(8, 4, 1), batch=6,
        budget=60, lr=1e-2,
    )  # fmt: skip
    return Distillation(config, TRACT(), VP(), teacher, images, labels=labels)


def test_a_class_conditional_distillation_gives_each_network_the_images_classes():
    run = conditional_distillation()
    before = run.student.get_submodule("net.label").weight.detach().clone()
    drawn = []
    for _ in range(run.total):
        batch = run.draw(run.plan.phase, 0.0)
        assert torch.equal(batch.labels, (10 * batch.x0[:, 0, 0, 0]).round().long())
        drawn += batch.labels.tolist()
        Watched.seen.clear()
        run.train_step()
        assert len(Watched.seen) == 3  # teacher, self-teacher, student
        assert [training for training, _ in Watched.seen].count(True) == 1
        assert all(torch.equal(labels, batch.labels) for _, labels in Watched.seen)
    moved = (run.student.get_submodule("net.label").weight != before).any(1).tolist()
    assert moved == [label in drawn for label in range(CLASSES)]
    assert not moved[-1]


def conditional_samples(seed, count, chunk, asked):
    def denoiser(x, t, labels):
        asked.append(labels)
        return (labels.double() - 2).reshape(-1, 1, 1, 1).expand_as(x)

    parts = sample(denoiser, VE(), (1, 2, 2), seed, count, Sampler.equal(2), chunk=chunk, classes=CLASSES, clip=False)
    return torch.cat(list(parts))


def test_a_samples_class_depends_on_seed_and_index_only():
    expected = prior_labels(CLASSES, 7, range(12))
    for chunk in (1, 5, 12):
        asked = []
        images = conditional_samples(7, 12, chunk, asked)
        # each chunk's labels, the same in both steps; sigma ends at 0, so an image is its class
        assert torch.equal(torch.cat(asked[::2])[:12], expected)
        assert torch.equal(torch.cat(asked[1::2])[:12], expected)
        assert torch.equal(images, (expected.double() - 2).reshape(-1, 1, 1, 1).expand(12, 1, 2, 2))
    assert torch.equal(prior_labels(CLASSES, 7, range(4, 9)), expected[4:9])
    assert not torch.equal(prior_labels(CLASSES, 8, range(12)), expected)


def test_classes_of_samples_are_uniform():
    counts = torch.bincount(prior_labels(CLASSES, 0, range(1000)), minlength=CLASSES)
    assert len(counts) == CLASSES
    # five standard deviations of a binomial count with p = 1/5
    assert counts.tolist() == pytest.approx([200] * CLASSES, abs=5 * math.sqrt(1000 * 0.2 * 0.8))


def test_an_unconditional_sampler_gives_no_labels():
    asked = []
    list(sample(lambda x, t, labels: asked.append(labels) or x, VP(), (1, 1, 1), 0, 2, Sampler.equal(2), chunk=2))
    assert asked == [None, None]
