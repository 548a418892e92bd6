import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tractbench.diffusion.processes import VP, per_sample
from tractbench.diffusion.solvers import ddim_inverse, ddim_step
from tractbench.errors import ConfigError
from tractbench.method import Batch, Method, Nets, Phase, Times, group_times, loss_weight
from tractbench.methods.ddim import DDIM
from tractbench.methods.tract import TRACT

PROCESS = VP()
BELOW_ONE = 1 - 2.0**-53


@st.composite
def phases(draw):
    end = draw(st.integers(1, 48))
    return Phase(end * draw(st.integers(1, 48)), end)


def draws(phase, u):
    times = group_times(torch.tensor(u, dtype=torch.float64), phase)
    return list(zip(times.t.tolist(), times.t_next.tolist(), times.t_end.tolist(), strict=True))


def centres(phase):
    """Uniforms in the middle of each of the end * group equally likely cells."""
    return [((i + 0.5) / phase.end, (k + 0.5) / phase.group) for i in range(phase.end) for k in range(phase.group)]


uniforms = st.floats(0, BELOW_ONE)


@settings(deadline=None)
@given(phases(), st.lists(st.tuples(uniforms, uniforms), min_size=1, max_size=20))
def test_drawn_times_obey_the_group_arithmetic(phase, u):
    for t, t_next, t_end in draws(phase, u):
        index = round(t * phase.start)
        end = round(t_end * phase.end)
        # exactly the quotients of integers, so that equal times compare equal
        assert (t, t_next, t_end) == (index / phase.start, (index - 1) / phase.start, end / phase.end)
        assert Fraction(end, phase.end) <= Fraction(index - 1, phase.start)
        assert Fraction(index, phase.start) <= Fraction(end + 1, phase.end) <= 1
        assert end >= 0


@settings(deadline=None)
@given(phases())
def test_every_teacher_step_of_every_group_is_equally_likely(phase):
    found = sorted(round(t * phase.start) for t, _, _ in draws(phase, centres(phase)))
    assert found == list(range(1, phase.start + 1))


@settings(deadline=None)
@given(phases())
def test_the_jump_ends_at_the_nearest_coarse_time_below(phase):
    for t, _, t_end in draws(phase, centres(phase)):
        index = round(t * phase.start)
        assert round(t_end * phase.end) == math.ceil(Fraction(index * phase.end, phase.start)) - 1


@settings(deadline=None)
@given(phases())
def test_the_first_uniform_chooses_the_group_and_the_second_the_step_in_it(phase):
    by_group = [draws(phase, [((i + 0.5) / phase.end, k) for k in (0.0, BELOW_ONE)]) for i in range(phase.end)]
    for i, ((first, _, _), (last, last_next, last_end)) in enumerate(by_group):
        assert first == (i + 1) / phase.end
        assert last_next == last_end == i / phase.end
        assert round(last * phase.start) == i * phase.group + 1


def test_groups_of_the_papers_first_phase():
    # 1024 to 32 steps: groups of 32, ends at multiples of 1/32
    phase = Phase(1024, 32)
    assert phase.group == 32
    assert draws(phase, [(0.0, 0.0), (BELOW_ONE, 0.0), (0.5, 0.5)]) == [
        (32 / 1024, 31 / 1024, 0.0),
        (1.0, 1023 / 1024, 31 / 32),
        (528 / 1024, 527 / 1024, 512 / 1024),
    ]


def test_a_repeated_entry_takes_one_teacher_step():
    for t, t_next, t_end in draws(Phase(32, 32), centres(Phase(32, 32))):
        assert t_next == t_end == t - 1 / 32


def test_phases_join_neighbouring_entries():
    assert TRACT().phases((1024, 32, 1)) == (Phase(1024, 32), Phase(32, 1))


@pytest.mark.parametrize(
    ("nfe", "schedule"), [(1, (1024, 32, 1)), (2, (1024, 32, 2)), (16, (1024, 32, 16)), (64, (1024, 64))]
)
def test_default_schedule_is_the_papers_best(nfe, schedule):
    assert TRACT().default_schedule(nfe) == schedule


# One Gaussian N(m, c) a pixel: the denoiser is affine and every DDIM chain an affine map, written below with floats.
MEAN = (0.3, -0.6, 0.1)
VARIANCE = (0.25, 0.04, 1.5)


def gamma(u):
    angle = math.atan(math.exp(-10)) + u * (math.atan(math.exp(10)) - math.atan(math.exp(-10)))
    return 1 / (1 + math.tan(angle) ** 2)


def gaussian_denoiser(x, t, labels=None):
    mean = torch.tensor(MEAN, dtype=torch.float64).reshape(1, -1, 1, 1)
    variance = torch.tensor(VARIANCE, dtype=torch.float64).reshape(1, -1, 1, 1)
    g = per_sample(torch.tensor([gamma(float(u)) for u in t], dtype=torch.float64), x)
    return mean + g.sqrt() * variance / (g * variance + 1 - g) * (x - g.sqrt() * mean)


def chain(start, first, last):
    """Slope and offset, a channel, of the teacher's DDIM chain from step ``first`` to ``last`` of ``start``."""
    maps = []
    for mean, variance in zip(MEAN, VARIANCE, strict=True):
        slope, offset = 1.0, 0.0
        for index in range(first, last, -1):
            g, h = gamma(index / start), gamma((index - 1) / start)
            gain = math.sqrt(g) * variance / (g * variance + 1 - g)
            bias = mean - gain * math.sqrt(g) * mean  # x0 = gain x + bias
            noise = math.sqrt(1 - h) / math.sqrt(1 - g)
            step_slope = math.sqrt(h) * gain + noise * (1 - math.sqrt(g) * gain)
            step_offset = (math.sqrt(h) - noise * math.sqrt(g)) * bias
            slope, offset = step_slope * slope, step_slope * offset + step_offset
        maps.append((slope, offset))
    slopes, offsets = torch.tensor(maps, dtype=torch.float64).T
    return slopes.reshape(1, -1, 1, 1), offsets.reshape(1, -1, 1, 1)


def exact_self_teacher(phase):
    """The denoiser whose one DDIM step to the end of its group lands where the teacher's chain does."""

    def denoise(x, t, labels=None):
        rows = []
        for row, u in zip(x, t.tolist(), strict=True):
            index = round(u * phase.start)
            end = index // phase.group * phase.group
            if end == index:  # already there: what is returned here must not matter
                rows.append(torch.full_like(row[None], math.nan))
                continue
            slope, offset = chain(phase.start, index, end)
            ends = [torch.tensor([i / phase.start], dtype=torch.float64) for i in (index, end)]
            rows.append(ddim_inverse(PROCESS, row[None], slope * row[None] + offset, *ends))
        return torch.cat(rows)

    return denoise


def unused(x, t, labels=None):
    raise AssertionError("this target needs no such network")


def batch_at(times, seed=0, size=1):
    random = torch.Generator().manual_seed(seed)
    shape = (len(times.t), len(MEAN), size, size)
    x_t, x0, noise = (torch.randn(shape, dtype=torch.float64, generator=random) for _ in range(3))
    return Batch(x_t, times, None, x0, noise, PROCESS)


@pytest.mark.parametrize(("start", "end"), [(8, 1), (1024, 32), (32, 1), (12, 4)])
def test_target_is_the_one_step_form_of_the_teachers_chain_for_every_k(start, end):
    phase = Phase(start, end)
    groups = sorted({0, end // 2, end - 1})
    u = [((i + 0.5) / end, (k + 0.5) / phase.group) for i in groups for k in range(phase.group)]
    batch = batch_at(group_times(torch.tensor(u, dtype=torch.float64), phase))
    nets = Nets(gaussian_denoiser, exact_self_teacher(phase), unused)
    x0 = TRACT(clip_target=False).target(batch, phase, 0.0, nets).x0

    for n, (t, t_end) in enumerate(zip(batch.times.t.tolist(), batch.times.t_end.tolist(), strict=True)):
        slope, offset = chain(start, round(t * start), round(t_end * start))
        x_t = batch.x_t[n : n + 1]
        g, h = gamma(t), gamma(t_end)
        # the x0 for which sqrt(h) x0 + sqrt(1 - h) (x_t - sqrt(g) x0) / sqrt(1 - g) is the chain's end
        noise = math.sqrt(1 - h) / math.sqrt(1 - g)
        expected = (slope * x_t + offset - noise * x_t) / (math.sqrt(h) - noise * math.sqrt(g))
        torch.testing.assert_close(x0[n : n + 1], expected, rtol=0, atol=1e-10)
        step = ddim_step(PROCESS, x_t, x0[n : n + 1], batch.times.t[n : n + 1], batch.times.t_end[n : n + 1])
        torch.testing.assert_close(step, slope * x_t + offset, rtol=0, atol=1e-10)


def test_the_last_step_of_a_group_is_the_teachers_own_x0():
    phase = Phase(16, 4)
    times = group_times(torch.tensor([[i / 4, BELOW_ONE] for i in range(4)], dtype=torch.float64), phase)
    batch = batch_at(times)

    def wrong(x, t, labels=None):
        return torch.full_like(x, math.nan)

    x0 = TRACT(clip_target=False).target(batch, phase, 0.0, Nets(gaussian_denoiser, wrong, unused)).x0
    torch.testing.assert_close(x0, gaussian_denoiser(batch.x_t, times.t), rtol=0, atol=1e-10)


def test_networks_are_asked_at_their_own_states_and_times():
    asked = {}

    def recorder(name, value):
        def denoise(x, t, labels):
            asked[name] = (x, t, labels)
            return torch.full_like(x, value)

        return denoise

    times = Times(*(torch.tensor([value], dtype=torch.float64) for value in (0.75, 0.5, 0.25)))
    batch = batch_at(times)
    labels = torch.tensor([3])
    batch = Batch(batch.x_t, times, labels, batch.x0, batch.noise, PROCESS)
    TRACT().target(batch, Phase(4, 1), 0.0, Nets(recorder("teacher", 0.2), recorder("self_teacher", -0.1), unused))

    assert torch.equal(asked["teacher"][0], batch.x_t)
    assert (asked["teacher"][1].item(), asked["self_teacher"][1].item()) == (0.75, 0.5)
    assert asked["teacher"][2] is asked["self_teacher"][2] is labels
    g, h = gamma(0.75), gamma(0.5)
    eps = (batch.x_t - math.sqrt(g) * 0.2) / math.sqrt(1 - g)
    after = math.sqrt(h) * 0.2 + math.sqrt(1 - h) * eps
    torch.testing.assert_close(asked["self_teacher"][0], after, rtol=0, atol=1e-13)


# A step from 3/4 by 1/2 to 1/4 turns twice by pi/8: the teacher's x0 has the share 2 sin^2(pi/8), the other the rest.
@pytest.mark.parametrize(("overshooting", "share"), [("teacher", 1 - math.sqrt(0.5)), ("self_teacher", math.sqrt(0.5))])
def test_clip_target_limits_each_network(overshooting, share):
    def constant(value):
        return lambda x, t, labels: torch.full_like(x, value)

    times = Times(*(torch.tensor([value] * 5, dtype=torch.float64) for value in (0.75, 0.5, 0.25)))
    batch = batch_at(times)
    limit = {"teacher": constant(1.0), "self_teacher": constant(1.0)}
    large = Nets(**limit | {overshooting: constant(7.0)}, frozen=unused)
    at_limit = Nets(constant(1.0), constant(1.0), unused)
    phase = Phase(4, 2)
    clipped = TRACT().target(batch, phase, 0.0, large).x0
    assert torch.equal(clipped, TRACT().target(batch, phase, 0.0, at_limit).x0)
    # two steps with the constant denoiser 1 are one step with it
    torch.testing.assert_close(clipped, torch.ones_like(clipped), rtol=0, atol=1e-10)
    free = TRACT(clip_target=False).target(batch, phase, 0.0, large).x0
    torch.testing.assert_close(free, torch.full_like(free, 1 + 6 * share), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("snr", lambda g: g / (1 - g)),
        ("truncated_snr", lambda g: max(g / (1 - g), 1.0)),
        ("uniform", lambda g: 1.0),
    ],
)
def test_loss_weights(kind, expected):
    u = [0.01, 0.25, 0.49, 0.51, 0.75, 1.0]
    weights = loss_weight(PROCESS, torch.tensor(u, dtype=torch.float64), kind).tolist()
    # 1 - gamma is 2.5e-4 at u = 0.01: relative rounding 1e-12
    assert weights == pytest.approx([expected(gamma(v)) for v in u], rel=1e-10)


@pytest.mark.parametrize("kind", ["snr", "truncated_snr", "uniform"])
def test_target_carries_the_chosen_weight_of_t(kind):
    times = Times(*(torch.tensor([value], dtype=torch.float64) for value in (0.25, 0.125, 0.0)))
    nets = Nets(gaussian_denoiser, gaussian_denoiser, unused)
    target = TRACT(loss_weight=kind).target(batch_at(times), Phase(8, 1), 0.0, nets)
    # at u = 1/4 logSNR is 1.7626187665611515
    assert float(target.weight) == pytest.approx(1.0 if kind == "uniform" else math.exp(1.7626187665611515), rel=1e-12)


def test_distance_sums_over_pixels():
    prediction, target = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    target[1] = -1.0
    assert TRACT().distance(prediction, target).tolist() == [12.0, 48.0]


def test_untrained_methods_have_no_phases_and_no_target():
    assert DDIM().phases(DDIM().default_schedule(4)) == ()
    times = Times(*(torch.tensor([value], dtype=torch.float64) for value in (1.0, 0.5, 0.0)))
    with pytest.raises(ConfigError, match="'ddim' defines no target"):
        DDIM().target(batch_at(times), Phase(2, 1), 0.0, Nets(unused, unused, unused))


def test_methods_are_frozen_and_refuse_unknown_options():
    with pytest.raises(ValueError, match="frozen"):
        TRACT().clip_target = False
    with pytest.raises(ValueError, match="Extra inputs"):
        TRACT(clip=False)


@pytest.mark.parametrize("method", [TRACT, DDIM])
def test_options_are_described(method):
    assert issubclass(method, Method)
    assert all(field.description for field in method.model_fields.values())
