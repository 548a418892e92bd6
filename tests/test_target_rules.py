"""Rules of single methods: repeated entries, clipping, sigma 0, schedules and weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from targets_data import METHODS, PROCESSES, assert_near, batch_at, broken, curved, every_time, unused, vp_scales

from tractbench.diffusion.processes import VE, VP
from tractbench.errors import ConfigError
from tractbench.method import Nets, Phase, Times
from tractbench.methods.btd import BTD
from tractbench.methods.tract import TRACT
from tractbench.methods.tract_edm import TRACTEDM

pytestmark = pytest.mark.usefixtures("one_thread")


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
