import copy
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tractbench.training.ema import BiasCorrectedEMA, load_parameters


class Point(nn.Module):
    def __init__(self, values, dtype=torch.float64):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(values, dtype=dtype))


def averaged(values, momentum, start=123.0, dtype=None, of=torch.float64):
    network = Point([start], of)
    ema = BiasCorrectedEMA(network, momentum, dtype)
    for value in values:
        with torch.no_grad():
            network.value.fill_(value)
        ema.update(list(network.parameters()))
    return float(ema.module.value)


def closed_form(values, momentum):
    mu, n = Fraction(momentum), len(values)
    weights = [(1 - mu) * mu ** (n - i) for i in range(1, n + 1)]
    return float(sum(w * Fraction(v) for w, v in zip(weights, values, strict=True)) / (1 - mu**n))


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 0.99999]))
def test_average_has_its_closed_form(values, momentum):
    assert averaged(values, momentum) == pytest.approx(closed_form(values, momentum), rel=1e-12, abs=1e-9)


def test_the_first_update_replaces_the_start():
    assert averaged([2.0], 0.99999, start=1e6) == 2.0


def test_zero_momentum_follows_the_network():
    assert averaged([3.0, -1.0, 0.25], 0.0) == 0.25


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99999])
def test_a_constant_is_its_own_average(momentum):
    assert averaged([0.7] * 100, momentum) == pytest.approx(0.7, abs=1e-15)


def test_a_long_average_keeps_increments_that_float32_would_lose():
    # A ramp: at every update the average moves by less than half a float32 ulp of 1000 (3e-5).
    momentum, n = 0.99999, 20_000
    values = [1000 + i * 1e-4 for i in range(n)]
    i = torch.arange(n, dtype=torch.float64)
    weights = momentum ** (n - 1 - i)
    expected = 1000 + 1e-4 * float((weights * i).sum() / weights.sum())
    assert averaged(values, momentum, dtype=torch.float64) == pytest.approx(expected, abs=1e-7)
    assert abs(averaged(values, momentum, dtype=torch.float32) - expected) > 1e-3


def test_the_weight_of_an_old_value_decays_as_stated():
    # after N updates of momentum r^(1/N) the weight left to the first ones is r
    n, residual = 1000, 1e-3
    momentum = residual ** (1 / n)
    late = averaged([0.0] * n + [1.0] * n, momentum)
    assert late == pytest.approx((1 - residual) / (1 - residual**2), rel=1e-9)


def test_reset_makes_the_next_update_the_first():
    network = Point([5.0])
    ema = BiasCorrectedEMA(network, 0.9)
    parameters = list(network.parameters())
    for _ in range(3):
        ema.update(parameters)
    ema.reset()
    with torch.no_grad():
        network.value.fill_(-2.0)
    ema.update(parameters)
    assert float(ema.module.value) == -2.0
    assert ema.updates == 1


def test_momentum_may_change_between_updates():
    network = Point([0.0])
    ema = BiasCorrectedEMA(network, 0.9)
    for value, momentum in ((4.0, 0.9), (1.0, 0.0)):
        ema.momentum = momentum
        with torch.no_grad():
            network.value.fill_(value)
        ema.update(list(network.parameters()))
    assert float(ema.module.value) == 1.0


def test_the_average_is_a_copy_that_records_no_gradient():
    network = Point([1.0, 2.0])
    before = copy.deepcopy(network.state_dict())
    ema = BiasCorrectedEMA(network, 0.5, torch.float64)
    ema.update([nn.Parameter(torch.tensor([9.0, 9.0], dtype=torch.float64))])
    assert torch.equal(network.value, before["value"])
    assert network.value.requires_grad
    assert not ema.module.value.requires_grad


def test_copying_out_rounds_once_to_the_networks_dtype():
    network = Point([1.0], torch.float32)
    ema = BiasCorrectedEMA(network, 0.5, torch.float64)
    for value in (0.1, 0.2, 0.7):
        with torch.no_grad():
            network.value.fill_(value)
        ema.update(list(network.parameters()))
    other = Point([0.0], torch.float32)
    ema.copy_to(other)
    assert other.value.dtype == torch.float32
    assert torch.equal(other.value, ema.module.value.float())


def test_parameters_are_loaded_by_name():
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    load_parameters(target, dict(reversed(list(source.named_parameters()))))
    assert torch.equal(source.weight, target.weight)
    assert torch.equal(source.bias, target.bias)


def test_an_average_of_another_architecture_is_refused():
    ema = BiasCorrectedEMA(nn.Linear(2, 3), 0.5)
    with pytest.raises(ValueError, match="zip"):
        ema.update(list(nn.Linear(2, 3, bias=False).parameters()))
