"""Any values of a method's options are refused in one line, or make a loss and a sampler of finite numbers."""

import math
from types import NoneType
from typing import Literal, get_args, get_origin

import pytest
import torch
from fuzzing import examples, no_hang
from hypothesis import given
from hypothesis import strategies as st

from tractbench.config.resolve import resolve
from tractbench.datasets.gaussian import Gaussian
from tractbench.diffusion.processes import load_process
from tractbench.errors import TractbenchError
from tractbench.method import Batch, Nets
from tractbench.nets.distances import stand_ins
from tractbench.plugins import components, load_class
from tractbench.seeds import generator

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 0.5, 1e-300, 1e-30, 1e-6, 1e6, 1e30, 1e300, math.inf, math.nan, 1 + 1e-9, 1 - 1e-9]),
    st.floats(0, 4),
)
COUNTS = st.one_of(st.integers(-1, 8), st.sampled_from([64, 10**6, 2**53, 10**30]))


def values(annotation):
    """Values of an option's type, and some that it may refuse."""
    if get_origin(annotation) is Literal:
        return st.sampled_from(get_args(annotation))
    if get_origin(annotation) is tuple:
        return st.lists(NUMBERS, max_size=3)
    kinds = {bool: st.booleans(), int: COUNTS, float: NUMBERS, str: st.sampled_from(["", "x"]), NoneType: st.none()}
    return st.one_of([kinds[kind] for kind in (annotation, *get_args(annotation)) if kind in kinds])


METHODS = {name: load_class("methods", name, object) for name in components("methods")}


def options(name):
    fields = METHODS[name].model_fields
    return st.fixed_dictionaries({}, optional={key: values(field.annotation) for key, field in fields.items()})


@pytest.mark.parametrize("name", sorted(name for name, method in METHODS.items() if method.trains))
@examples(25)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_options(name, data):
    own, nfe = data.draw(options(name)), data.draw(st.integers(1, 4))
    progress = data.draw(st.sampled_from([0.0, 0.05, 0.5, 0.999]))
    refused = ""
    with no_hang():
        try:
            config, method, _ = resolve({"method": name, "dataset": "gaussian:2", "nfe": nfe, **own})
            process = load_process(config.process, config.grid_steps)
            sampler = method.sampler(config.nfe, process)
        except TractbenchError as error:
            refused = str(error)
    if refused:
        assert len(refused.splitlines()) == 1
        return
    assert sampler.evaluations <= nfe
    assert all(0 <= time <= 1 for time in sampler.times)
    phase = method.phases(config.schedule)[-1]
    u = torch.rand((16, method.draws), generator=generator("options"), dtype=torch.float64)
    times = method.times(u, phase, progress, process)
    for drawn in (times.t, times.t_next, times.t_end):
        assert bool(((drawn >= 0) & (drawn <= 1)).all()), (own, drawn)
    x0, noise = (torch.randn((16, 2, 1, 1), generator=generator(key), dtype=torch.float64) for key in ("x", "noise"))
    x_t = process.alpha(times.t)[:, None, None, None] * x0 + process.sigma(times.t)[:, None, None, None] * noise
    exact = Gaussian("2").exact_denoiser(process)
    student = method.parameterise(exact, process)
    distances = stand_ins(method.distances((3, 8, 8)))
    nets = Nets(exact, student, student, method.modules((2, 1, 1)), distances)
    loss = method.objective(Batch(x_t, times, None, x0, noise, process), phase, progress, nets, student)
    assert loss.shape == (16,)
    assert bool(loss.isfinite().all()), (own, loss)
