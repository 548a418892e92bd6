import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tractbench.diffusion.denoiser import PARAMETERISATIONS
from tractbench.diffusion.preconditioning import SCHEMES
from tractbench.diffusion.processes import PROCESSES, VE, VP, load_process, per_sample, process_of
from tractbench.errors import ConfigError
from tractbench.io.canonical import canonical

TIMES = torch.linspace(0, 1, 1025, dtype=torch.float64)
ANGLE = math.atan(math.exp(10)) - math.atan(math.exp(-10))  # the whole rotation, from logSNR 20 to -20


def at(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("u", "log_snr"), [(0, 20), (0.25, 1.7626187665611515), (0.5, 0), (1, -20)])
def test_log_snr_has_its_published_values(u, log_snr):
    # near u = 1 the angle's last bit moves logSNR by 2^-52 / 4.5e-5 = 5e-12
    assert float(VP().log_snr(at(u))) == pytest.approx(log_snr, abs=1e-11)


def test_gamma_has_its_published_values():
    gamma = VP().alpha(at(0, 0.5, 1)).square()
    assert float(1 - gamma[0]) == pytest.approx(2.06e-9, rel=1e-3)
    assert float(gamma[1]) == pytest.approx(0.5, abs=1e-15)
    assert float(gamma[2]) == pytest.approx(2.06e-9, rel=1e-3)


def test_alpha_and_sigma_are_the_roots_of_gamma_and_its_complement():
    process = VP()
    log_snr = process.log_snr(TIMES)
    torch.testing.assert_close(process.alpha(TIMES), log_snr.sigmoid().sqrt(), rtol=1e-11, atol=0)
    torch.testing.assert_close(process.sigma(TIMES), (-log_snr).sigmoid().sqrt(), rtol=1e-11, atol=0)


def test_variance_is_preserved():
    process = VP()
    total = process.alpha(TIMES).square() + process.sigma(TIMES).square()
    torch.testing.assert_close(total, torch.ones_like(TIMES), rtol=0, atol=1e-15)


def test_log_snr_is_antisymmetric_about_the_middle():
    process = VP()
    torch.testing.assert_close(process.log_snr(1 - TIMES), -process.log_snr(TIMES), rtol=0, atol=2e-11)


def test_the_angle_grows_linearly():
    process = VP()
    angle = torch.atan2(process.sigma(TIMES), process.alpha(TIMES))
    torch.testing.assert_close(angle.diff(), torch.full((1024,), ANGLE / 1024, dtype=torch.float64), rtol=1e-12, atol=0)


def test_log_snr_falls_and_sigma_is_never_zero():
    process = VP()
    assert bool((process.log_snr(TIMES).diff() < 0).all())
    assert float(process.sigma(TIMES).min()) > 4.5e-5
    assert float(process.alpha(TIMES).min()) > 4.5e-5


@pytest.mark.parametrize(("high", "low"), [(20.0, -20.0), (10.0, -5.0), (4.0, 1.0)])
def test_ends_of_the_schedule_can_be_chosen(high, low):
    ends = VP(log_snr_max=high, log_snr_min=low).log_snr(at(0, 1))
    torch.testing.assert_close(ends, at(high, low), rtol=0, atol=1e-11)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_cross_is_antisymmetric_and_is_the_determinant_of_the_two_scales(t, s):
    process, t, s = VP(), at(t), at(s)
    determinant = process.alpha(s) * process.sigma(t) - process.alpha(t) * process.sigma(s)
    torch.testing.assert_close(process.scales(t, s).cross, determinant, rtol=0, atol=1e-15)
    torch.testing.assert_close(process.scales(s, t).cross, -process.scales(t, s).cross, rtol=0, atol=1e-15)


@pytest.mark.parametrize("steps", [1 << 10, 1 << 15, 1 << 20])
def test_cross_loses_no_digits_between_neighbouring_steps(steps):
    # equal turns of a rotation: the determinant is the sine of the turn, wherever the step lies
    index = torch.arange(0, steps, steps // 64, dtype=torch.float64)
    cross = VP().scales((index + 1) / steps, index / steps).cross
    torch.testing.assert_close(cross, torch.full_like(cross, math.sin(ANGLE / steps)), rtol=1e-12, atol=0)


def test_times_of_any_dtype_give_float64():
    process = VP()
    half = torch.tensor([0.5], dtype=torch.float32)
    for value in (process.alpha(half), process.sigma(half), process.log_snr(half), *process.scales(half, half)):
        assert value.dtype == torch.float64


def test_per_sample_scales_each_image_by_its_own_value():
    images = torch.ones(3, 2, 4, 5)
    scaled = per_sample(torch.tensor([1.0, 2.0, 3.0]), images) * images
    assert scaled.flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 3]


# What the engine asks of any process


@pytest.mark.parametrize("process", [VP(), VE(), VE(7), VP(log_snr_max=12.0)], ids=repr)
def test_time_is_the_inverse_of_the_noise_to_signal_ratio(process):
    t = torch.linspace(0, 1, 41, dtype=torch.float64)[1:]
    ratio = process.sigma(t) / process.alpha(t)
    torch.testing.assert_close(process.time(ratio), t, rtol=0, atol=1e-11)
    torch.testing.assert_close(ratio, torch.exp(-process.log_snr(t) / 2), rtol=1e-9, atol=0)


def test_noise_below_the_smallest_level_has_its_time_too():
    process = VE(7)
    sigma = at(0.0, 0.25, 0.5, 1.0) * process.sigma_min
    torch.testing.assert_close(process.time(sigma), at(0.0, 0.25, 0.5, 1.0) / 7, rtol=1e-12, atol=0)


def test_the_ends_of_the_noise_to_signal_ratio():
    vp, ve = VP(), VE()
    assert float((vp.sigma(at(0)) / vp.alpha(at(0))).log()) == pytest.approx(math.log(vp.sigma_min), abs=1e-11)
    assert float((vp.sigma(at(1)) / vp.alpha(at(1))).log()) == pytest.approx(math.log(vp.sigma_max), abs=1e-11)
    assert [float(ve.sigma(at(t))) for t in (1 / 40, 1)] == pytest.approx([ve.sigma_min, ve.sigma_max], rel=1e-12)


def test_every_parameterisation_belongs_to_one_process():
    listed = [name for process in PROCESSES.values() for name in process.parameterisations]
    assert sorted(listed) == sorted([*PARAMETERISATIONS, *SCHEMES])
    assert {process_of(name) for name in PARAMETERISATIONS} == {VP}
    assert {process_of(name) for name in SCHEMES} == {VE}
    with pytest.raises(ConfigError, match="unknown parameterisation 'edn'; did you mean 'edm'"):
        process_of("edn")


def test_processes_are_loaded_by_name_on_a_grid():
    assert load_process("ve", 12) == VE(12)
    assert load_process("ve") == VE(40)
    assert load_process("vp", 12) == load_process("vp") == VP()
    with pytest.raises(ConfigError, match="unknown process 'vpp'; did you mean 'vp'"):
        load_process("vpp")


def test_a_key_holds_what_decides_and_nothing_else():
    assert load_process("vp", 16).key == load_process("vp", 1024).key
    others = (VP(), VP(log_snr_max=10.0), VP(log_snr_min=-10.0), VE(), VE(16), VE(sigma_min=0.01), VE(sigma_max=8.0))
    assert len({canonical(process.key) for process in others}) == len(others)


def test_vp_takes_no_number_of_steps():
    with pytest.raises(TypeError):
        VP(1024)
