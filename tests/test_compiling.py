"""Compiled passes: the same run by other kernels, and nothing of it in names or files."""

import functools
import shutil

import pytest
import torch

from tractbench.config.fields import RunConfig
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VP
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench.training.compiling import compiled
from tractbench.training.distillation import Distillation


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    """Trace and differentiate as any backend has to, without the last stage (C++ or Triton); count the graphs."""
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counted))
    yield graphs
    torch.compiler.reset()


def distillation(**how):
    config = RunConfig.model_validate({
        "method": "tract", "dataset": "digits", "tier": "smoke", "teacher": "digits-vp", "grid_steps": 8, "nfe": 1,
        "schedule": (8, 4, 1), "budget": 32, "batch": 8, "lr": 1e-3,
    })  # fmt: skip
    arguments = {"channels": 1, "size": 2, "width": 8, "blocks": 1, "embedding": 4}
    teacher = X0Denoiser(build_network("mlp", arguments, generator("compiling")), VP()).requires_grad_(False).eval()
    images = torch.rand((16, 1, 2, 2), generator=generator("compiling", "images")) * 2 - 1
    return Distillation(config, TRACT(), VP(), teacher, images, **how)


def gradients(run):
    """The gradients of a run's next step."""
    run.train_step()
    return {name: weight.grad.clone() for name, weight in run.student.named_parameters()}


def assert_close(found, expected):
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_compiled_step_differs_by_rounding_and_keeps_its_names(backend):
    expected = gradients(distillation())
    assert not backend
    assert_close(gradients(distillation(compiling=True)), expected)
    assert len(backend) >= 2  # passes with gradients and without


def test_a_run_begun_compiled_goes_on_without(backend):
    first, plain = distillation(compiling=True), distillation()
    first.train_step()
    plain.restore(first.state())
    made = len(backend)
    expected = gradients(plain)
    assert len(backend) == made > 0
    assert_close(gradients(first), expected)


@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler (g++) here")
def test_the_default_backend_makes_the_passes_too(monkeypatch):
    monkeypatch.undo()  # inductor's C++
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # no pool of processes for one kernel
    monkeypatch.setattr(torch._inductor.config.cpp, "vec_isa_ok", False)  # nor trials which vectors the machine has
    network = distillation().student
    x, t = torch.randn((4, 1, 2, 2), generator=generator("compiling", "x")), torch.full((4,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(compiled(network)(x, t, None), network(x, t, None), rtol=1e-5, atol=1e-6)
