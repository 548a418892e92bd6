"""What ``precision`` means: flags, autocast, and what it does to a distillation."""

import math

import pytest
import torch

from tractbench.config.fields import RunConfig
from tractbench.datasets.gaussian import Gaussian
from tractbench.diffusion.denoiser import SigmaDenoiser, X0Denoiser
from tractbench.diffusion.processes import VE, VP
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.seeds import generator
from tractbench.training.distillation import Distillation
from tractbench.training.numerics import CPU_PARTS, GPU_PARTS, _newer, in_precision, precision

NAMES = ("fp32", "tf32", "bf16")
NEWER = bool(_newer())


@pytest.fixture(autouse=True)
def _one_thread_and_flags_as_found():
    threads, before = torch.get_num_threads(), flags()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = before[2]
    for part, value in zip(_newer(), before[3:], strict=True):
        part.fp32_precision = value
    assert flags() == before


def flags():
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        *(part.fp32_precision for part in _newer()),
    )


def defaults():
    pass


def legacy_on():
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True


def legacy_off():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


CALLERS = (defaults, legacy_on, legacy_off)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", NAMES)
def test_flags_are_set_whatever_they_were(caller, name):
    caller()
    tf32 = name == "tf32"
    with precision(name, "cpu"):
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
        assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
        gpu = ["tf32" if tf32 else "ieee"] * len(GPU_PARTS)
        expected = gpu + ["ieee"] * len(CPU_PARTS) if NEWER else []
        assert [part.fp32_precision for part in _newer()] == expected


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", NAMES)
def test_flags_are_restored_even_after_an_exception(caller, name):
    caller()
    before = flags()
    with precision(name, "cpu"):
        pass
    assert flags() == before
    with pytest.raises(KeyError), precision(name, "cpu"):
        raise KeyError
    assert flags() == before


@pytest.mark.skipif(not NEWER, reason="flags of PyTorch 2.9")
def test_a_caller_of_the_newer_flags_alone_gets_them_back():
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # PyTorch now refuses to tell the older flag
    with precision("fp32", "cpu"):
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"


def network(process):
    arguments = {"channels": 2, "size": 1, "width": 32, "blocks": 2, "embedding": 16}
    if isinstance(process, VE):
        net = build_network("mlp", {**arguments, "c_noise": 1}, generator("tests", "numerics"))
        return SigmaDenoiser(net, process)
    return X0Denoiser(build_network("mlp", arguments, generator("tests", "numerics")), process)


def inputs(dtype=torch.float64):
    x = torch.randn((16, 2, 1, 1), dtype=dtype, generator=torch.Generator().manual_seed(0))
    return x, torch.linspace(0.1, 1, 16, dtype=torch.float64)


@pytest.mark.parametrize("process", [VP(), VE()])
def test_a_bf16_pass_computes_in_bfloat16_and_returns_float32(process):
    plain = network(process)
    dtypes = []
    plain.net.input.register_forward_hook(lambda module, given, out: dtypes.append(out.dtype))
    found, exact = in_precision(plain, "bf16", "cpu")(*inputs()), plain(*inputs())
    assert dtypes == [torch.bfloat16, torch.float32]
    assert found.dtype == torch.float32
    # bfloat16 has 8 bits of mantissa: an error of some 2^-8 a layer
    scale = float(exact.detach().abs().max())
    assert 0 < float((found - exact).detach().abs().max()) < 0.1 * scale
    assert not torch.is_autocast_enabled("cpu")


def test_gradients_of_a_bf16_pass_are_float32_and_near():
    plain, low = network(VP()), network(VP())
    for net, name in ((plain, "fp32"), (low, "bf16")):
        in_precision(net, name, "cpu")(*inputs()).square().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in low.parameters())
    norm, error = (
        torch.stack([t.square().sum() for t in tensors]).sum().sqrt()
        for tensors in (
            [p.grad for p in plain.parameters()],
            [a.grad - b.grad for a, b in zip(plain.parameters(), low.parameters(), strict=True)],
        )
    )
    assert 0 < float(error) < 0.1 * float(norm)


def test_a_closed_form_keeps_its_float64():
    exact = Gaussian("2").exact_denoiser(VP())
    assert torch.equal(in_precision(exact, "bf16", "cpu")(*inputs()), exact(*inputs()))


@pytest.mark.parametrize("name", ["fp32", "tf32"])
def test_a_callers_autocast_does_not_decide(name):
    net = network(VP())
    with precision(name, "cpu"):
        alone = net(*inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with precision(name, "cpu"):
            inside = in_precision(net, name, "cpu")(*inputs())
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(alone, inside)


# distillations of an exact teacher

DATA = Gaussian("2")


def distillation(name, steps, method=None, watch=None):
    """Two phases, each of ``steps``: into a network, then from four of its steps to one."""
    config = RunConfig.model_validate(
        {
            "method": "tract", "dataset": "gaussian:2", "tier": "smoke", "teacher": "exact", "grid_steps": 1024,
            "schedule": (4, 4, 1), "budget": 64 * 2 * steps, "batch": 64, "lr": 3e-3, "student": "mlp",
            "precision": name,
        }
    )  # fmt: skip

    def new_network(_):
        net = network(VP())
        if watch is not None:
            net.net.input.register_forward_hook(lambda module, given, out: watch(out.dtype))
        return net

    method = method or TRACT(clip_target=False)
    return Distillation(config, method, VP(), DATA.exact_denoiser(VP()), DATA.train[:4096], new_network=new_network)


@pytest.fixture(scope="module")
def runs():
    found = {name: distillation(name, 150) for name in NAMES}
    for run in found.values():
        while run.step < run.total:
            run.train_step()
    return found


@pytest.mark.xdist_group("numerics")
def test_fp32_and_tf32_are_the_same_on_a_cpu(runs):
    fp32, tf32 = (runs[name].averaged() for name in ("fp32", "tf32"))
    assert all(torch.equal(a, b) for a, b in zip(fp32.parameters(), tf32.parameters(), strict=True))
    assert runs["fp32"].losses == runs["tf32"].losses


@pytest.mark.xdist_group("numerics")
def test_a_bf16_distillation_ends_near_the_fp32_one(runs):
    assert all(math.isfinite(point.loss) for point in runs["bf16"].losses)
    noise = torch.randn((512, 2, 1, 1), dtype=torch.float64, generator=generator("tests", "noise"))
    with torch.no_grad():
        ends = {
            name: sample_ode(run.averaged(), VP(), noise, Sampler.equal(1), clip=False) for name, run in runs.items()
        }
        teacher = sample_ode(DATA.exact_denoiser(VP()), VP(), noise, Sampler.equal(4), clip=False)
    spread = float((teacher - teacher.mean(0)).square().flatten(1).sum(1).mean())

    def apart(a, b):
        return float((a - b).square().flatten(1).sum(1).mean()) / spread

    # mean squared distances as shares of the variance: both students learnt their teacher, and hardly differ
    assert apart(ends["fp32"], teacher) < 0.05
    assert apart(ends["bf16"], teacher) < 0.05
    assert 0 < apart(ends["bf16"], ends["fp32"]) < 0.02


def test_in_training_only_the_networks_passes_are_in_bf16():
    seen = []

    class Watching(TRACT):
        def target(self, batch, phase, progress, nets):
            target = super().target(batch, phase, progress, nets)
            seen.append(("target", target.x0.dtype, torch.is_autocast_enabled("cpu")))
            return target

        def distance(self, prediction, target):
            seen.append(("distance", prediction.dtype, torch.is_autocast_enabled("cpu")))
            return super().distance(prediction, target)

    run = distillation("bf16", 1, Watching(clip_target=False), seen.append)
    low, distance = torch.bfloat16, ("distance", torch.float32, False)
    run.train_step()  # towards the closed form
    assert seen == [("target", torch.float64, False), low, distance]
    seen.clear()
    run.train_step()  # teacher, self-teacher, then the student
    assert seen == [low, low, ("target", torch.float64, False), low, distance]
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in run.student.parameters())
    assert all(t.dtype in (torch.float32, torch.float64) for t in run.state().tensors.values())
