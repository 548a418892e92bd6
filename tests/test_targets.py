"""Targets of the methods that follow a teacher's chain of steps, on one Gaussian, and how these methods relate."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from targets_data import METHODS, PROCESSES, assert_near, batch_at, curved, every_time, unused, vp_scales

from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.processes import VE, VP, Scales
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import ddim_step, sample_ode
from tractbench.method import Batch, Nets, Phase
from tractbench.methods.btd import BTD
from tractbench.methods.tract import TRACT
from tractbench.methods.tract_edm import TRACTEDM
from tractbench.seeds import generator

pytestmark = pytest.mark.usefixtures("one_thread")


# One Gaussian N(M, S) in three dimensions: every chain of solver steps is an affine map A x + b, written with numpy.
M = np.array([0.3, -0.6, 0.1])
S = np.array([[0.5, 0.2, -0.05], [0.2, 0.3, 0.02], [-0.05, 0.02, 0.04]])  # eigenvalues 0.63, 0.18 and 0.03
ONE = np.eye(3)


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


def expected_targets(name, solver, phase, batch):
    rows = []
    for x, t, t_end in zip(
        batch.x_t.flatten(1).numpy(), batch.times.t.tolist(), batch.times.t_end.tolist(), strict=True
    ):
        first, last = round(t * phase.start), round(t_end * phase.start)
        slope, offset = chain(name, solver, phase.start, first, last)
        rows.append(one_step_x0(name, phase.start, first, last, x, slope @ x + offset))
    return torch.tensor(np.stack(rows)).reshape(batch.x_t.shape)


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
