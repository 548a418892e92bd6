import copy
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tractbench.training.ema import FOLD_EVERY, BiasCorrectedEMA, LongEMA, load_parameters


class Point(nn.Module):
    def __init__(self, values, dtype=torch.float64):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(values, dtype=dtype))


def short_average(values, momentum, start=123.0, dtype=torch.float64):
    network = Point([start], dtype)
    ema = BiasCorrectedEMA(network, momentum)
    follow(ema, network, values)
    return ema.module.value.item()


def long_average(values, momentum, start=123.0, dtype=torch.float64):
    network = Point([start], dtype)
    ema = LongEMA(network, momentum)
    follow(ema, network, values)
    result = Point([0.0], torch.float64)
    ema.copy_to(result)
    return result.value.item()


def follow(ema, network, values):
    for value in values:
        with torch.no_grad():
            network.value.fill_(value)
        ema.update(list(network.parameters()))


BOTH = pytest.mark.parametrize("averaged", [short_average, long_average])


def closed_form(values, momentum):
    mu, n = Fraction(momentum), len(values)
    weights = [(1 - mu) * mu ** (n - i) for i in range(1, n + 1)]
    return float(sum(w * Fraction(v) for w, v in zip(weights, values, strict=True)) / (1 - mu**n))


@BOTH
@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 0.99999]))
def test_average_has_its_closed_form(averaged, values, momentum):
    assert averaged(values, momentum) == pytest.approx(closed_form(values, momentum), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("updates", [FOLD_EVERY - 1, FOLD_EVERY, FOLD_EVERY + 1, 3 * FOLD_EVERY + 17])
@pytest.mark.parametrize("momentum", [0.5, 0.9, 0.9999])
def test_folding_leaves_the_long_average_its_closed_form(updates, momentum):
    values = [math.sin(i) + i / 50 for i in range(updates)]
    assert long_average(values, momentum) == pytest.approx(closed_form(values, momentum), rel=1e-12)


@BOTH
def test_the_first_update_replaces_the_start(averaged):
    assert averaged([2.0], 0.99999, start=1e6) == 2.0


@BOTH
def test_zero_momentum_follows_the_network(averaged):
    assert averaged([3.0, -1.0, 0.25], 0.0) == 0.25


@BOTH
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99999])
def test_a_constant_is_its_own_average(averaged, momentum):
    assert averaged([0.7] * 200, momentum) == pytest.approx(0.7, abs=1e-15)


def test_a_long_average_keeps_increments_that_float32_would_lose():
    # A ramp of exact float32 values: at every update the average moves by less than half a float32 ulp of 1000 (3e-5).
    momentum, n, step = 0.99999, 20_000, 2.0**-13
    values = [1000 + i * step for i in range(n)]
    i = torch.arange(n, dtype=torch.float64)
    weights = momentum ** (n - 1 - i)
    expected = 1000 + step * float((weights * i).sum() / weights.sum())
    assert long_average(values, momentum, dtype=torch.float32) == pytest.approx(expected, abs=2.0**-14)
    assert abs(short_average(values, momentum, dtype=torch.float32) - expected) > 1e-3


def test_reading_a_long_average_does_not_change_it():
    network, values = Point([1.0], torch.float32), [math.cos(i) for i in range(100)]
    read, unread = LongEMA(network, 0.99), LongEMA(network, 0.99)
    for value in values:
        for ema in (read, unread):
            follow(ema, network, [value])
        read.copy_to(Point([0.0], torch.float32))
    first, second = Point([0.0]), Point([0.0])
    read.copy_to(first)
    unread.copy_to(second)
    assert torch.equal(first.value, second.value)


@BOTH
def test_the_weight_of_an_old_value_decays_as_stated(averaged):
    # after N updates of momentum r^(1/N) the weight left to the first ones is r
    n, residual = 1000, 1e-3
    momentum = residual ** (1 / n)
    late = averaged([0.0] * n + [1.0] * n, momentum)
    assert late == pytest.approx((1 - residual) / (1 - residual**2), rel=1e-9)


def test_reset_makes_the_next_update_the_first():
    network, result = Point([5.0]), Point([0.0])
    ema = LongEMA(network, 0.9)
    follow(ema, network, [5.0, 3.0, 4.0])
    ema.reset()
    follow(ema, network, [-2.0])
    ema.copy_to(result)
    assert result.value.item() == -2.0
    assert ema.updates == 1


@pytest.mark.parametrize("kind", [BiasCorrectedEMA, LongEMA])
def test_momentum_may_change_between_updates(kind):
    network, result = Point([0.0]), Point([0.0])
    ema = kind(network, 0.9)
    follow(ema, network, [4.0])
    ema.momentum = 0.0
    follow(ema, network, [1.0])
    if kind is LongEMA:
        ema.copy_to(result)
    else:
        result = ema.module
    assert result.value.item() == 1.0


def test_the_average_is_a_copy_that_records_no_gradient():
    network = Point([1.0, 2.0])
    before = copy.deepcopy(network.state_dict())
    short, long = BiasCorrectedEMA(network, 0.5), LongEMA(network, 0.5)
    for ema in (short, long):
        ema.update([nn.Parameter(torch.tensor([9.0, 9.0], dtype=torch.float64))])
    assert torch.equal(network.value, before["value"])
    assert network.value.requires_grad
    assert not any(module.value.requires_grad for module in (short.module, long.recent, long.folded))


def test_copying_out_rounds_once_to_the_networks_dtype():
    network = Point([1.0], torch.float32)
    single, double = Point([0.0], torch.float32), Point([0.0])
    ema = LongEMA(network, 0.99)
    follow(ema, network, [0.1, 0.2, 0.7] * 40)
    ema.copy_to(single)
    ema.copy_to(double)
    assert single.value.dtype == torch.float32
    assert torch.equal(single.value, double.value.float())
    assert single.value.item() != double.value.item()


def test_parameters_are_loaded_by_name():
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    load_parameters(target, dict(reversed(list(source.named_parameters()))))
    assert torch.equal(source.weight, target.weight)
    assert torch.equal(source.bias, target.bias)


@pytest.mark.parametrize("kind", [BiasCorrectedEMA, LongEMA])
def test_an_average_of_another_architecture_is_refused(kind):
    ema = kind(nn.Linear(2, 3), 0.5)
    with pytest.raises(ValueError, match="1 parameters for an average of 2"):
        ema.update(list(nn.Linear(2, 3, bias=False).parameters()))
