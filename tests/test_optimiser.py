"""What is done to gradients before the optimiser's step, and the step."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from tractbench.config.fields import RunConfig
from tractbench.training.optimiser import BETAS, Adam, mend_gradients, replace_nonfinite

BAD = {math.nan: 0.0, math.inf: 1e5, -math.inf: -1e5}


def counter(value=0):
    return torch.tensor(value)


def config(**changes):
    settings = {
        "method": "tract_edm", "dataset": "digits", "tier": "smoke", "teacher": "t", "grid_steps": 40, "process": "ve",
        "schedule": (8, 1), "budget": 4, "batch": 4, "gradients": "replace_nonfinite",
    }  # fmt: skip
    return RunConfig.model_validate(settings | changes)


def parameters(*gradients):
    made = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(made, gradients, strict=True):
        parameter.grad = gradient.clone()
    return [*made, nn.Parameter(torch.zeros(3))]  # one that the loss does not reach


def finite():
    random = torch.Generator().manual_seed(0)
    largest = torch.finfo(torch.float32).max
    images = torch.randn((2, 3, 4, 4), generator=random).to(memory_format=torch.channels_last)
    return [torch.tensor([1e9, -1e30, largest, -largest, 1e-45, -0.0]), images, torch.tensor(2.0), torch.empty(0)]


def test_finite_gradients_keep_their_bits():
    gradients, replaced = finite(), counter(7)
    replace_nonfinite(gradients, replaced)
    for found, expected in zip(gradients, finite(), strict=True):
        assert torch.equal(found.reshape(-1).view(torch.int32), expected.reshape(-1).view(torch.int32))
    assert int(replaced) == 7


@pytest.mark.parametrize("places", [[(0, (0,)), (0, (3,)), (0, (5,))], [(1, (1, 0, 2, 3)), (1, (0, 2, 0, 1)), (2, ())]])
def test_entries_that_are_not_finite_are_replaced_and_counted(places):
    gradients, expected, replaced = finite(), finite(), counter(7)
    for (tensor, place), (bad, good) in zip(places, BAD.items(), strict=True):
        gradients[tensor][place], expected[tensor][place] = bad, good
    replace_nonfinite(gradients, replaced)
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected, strict=True))
    assert int(replaced) == 7 + len(places)


def test_counts_add_up_over_steps_and_gradients_whose_norm_overflows_are_none():
    replaced = counter()
    for gradient in ([math.nan, 1.0], [3e38, 3e38], [math.inf, -math.inf]):
        mend_gradients(config(), parameters(torch.tensor(gradient)), replaced)
    assert int(replaced) == 3


def test_a_run_that_clips_counts_nothing_and_limits_the_norm():
    made, replaced = parameters(torch.tensor([3.0, 4.0])), counter()
    mend_gradients(config(gradients="clip_norm", clip_norm=0.5), made, replaced)
    assert made[0].grad.tolist() == pytest.approx([0.3, 0.4], rel=1e-5)
    assert int(replaced) == 0


@pytest.mark.parametrize("rectified", [False, True])
def test_steps_are_pytorchs_to_the_bit_at_any_rate_and_go_on_from_a_copy(rectified):
    ours, theirs = parameters(*finite()), parameters(*finite())
    made = Adam(ours, 1.0, rectified=rectified)
    kind, how = (torch.optim.RAdam, {}) if rectified else (torch.optim.Adam, {"fused": True})
    pytorchs = kind(theirs, lr=1.0, betas=BETAS, **how)
    random = torch.Generator().manual_seed(1)
    for step, rate in enumerate((1e-3, 1e-2, 0.0, *[3e-4] * 5)):
        made.rate = pytorchs.param_groups[0]["lr"] = rate
        for own, other in zip(ours[:-1], theirs[:-1], strict=True):
            if step != 3 or own.ndim:  # one is left out for once
                own.grad = torch.empty_like(own).normal_(generator=random)  # in its layout, as autograd leaves it
                other.grad = own.grad.clone()
        made.step()
        pytorchs.step()
        made.zero_grad()
        pytorchs.zero_grad()
        assert all(torch.equal(own, other) for own, other in zip(ours, theirs, strict=True))
        if step == 4:
            state = {i: {name: t.clone().contiguous() for name, t in one.items()} for i, one in made.state.items()}
            made = Adam(ours, 1.0, rectified=rectified)
            made.load_state(state)
    assert len(made.state) == len(ours) - 1
    assert made.state[0].keys() == pytorchs.state[theirs[0]].keys()
    for index, entry in made.state.items():
        assert all(torch.equal(tensor, pytorchs.state[theirs[index]][name]) for name, tensor in entry.items())


def test_a_run_imports_no_compiler():
    code = """
import sys
from tractbench.cli import main
sys.argv = ["tractbench", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    print(stop.code, *(name for name in ("torch._dynamo", "sympy", "sklearn") if name in sys.modules))
"""
    words = ["--method", "tract", "--dataset", "digits", "--tier", "smoke", "--nfe", "1", "--schedule", "4,1",
             "--set", "grid_steps=4", "--samples", "10", "--sampling-seeds", "0", "--budget", "32", "--batch", "32",
             "--device", "cpu"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, "run", *words], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0", done.stderr
