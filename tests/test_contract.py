"""What the engine does for methods that ask for more than a target: students, modules and objectives of their own."""

import copy
from typing import ClassVar

import pytest
import torch
from torch import nn

import tractbench.config.resolve as resolving
import tractbench.pipeline.draw as drawing
from tractbench.config.fields import RunConfig
from tractbench.config.identity import comparison_form
from tractbench.config.resolve import resolve
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VP, per_sample
from tractbench.diffusion.sampler import Sampler
from tractbench.errors import ConfigError
from tractbench.method import Method, Phase, Target, Times
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.pipeline.cell import identify
from tractbench.pipeline.counts import Passes as Counted
from tractbench.pipeline.counts import count_passes
from tractbench.pipeline.run import run as make_run
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.steps import StepParts
from tractbench.pipeline.student import final_network
from tractbench.progress import Progress
from tractbench.registry import load_dataset, load_method, method_names
from tractbench.results.store import Store
from tractbench.seeds import generator
from tractbench.teachers.load import Teacher, wrap
from tractbench.training.batches import BLOCK
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation
from tractbench.training.loop import distill
from tractbench.training.parallel import ALONE, Group
from tractbench.training.passes import Passes, forward_mode

ID = "cd" * 32


class Ended(nn.Module):
    """A denoiser that is also told where its jump ends: scaled by a learnt function of it, 1 at first."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, x_t, t, labels=None, t_end=None):
        x0 = self.net(x_t, t, labels)
        return x0 * per_sample(1 + self.slope * t_end.to(x0.dtype), x0)


class Weighting(nn.Module):
    """A learnt log weight, linear in time."""

    def __init__(self):
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(2))

    def initialise(self, generator):
        with torch.no_grad():
            self.coefficients.normal_(std=0.1, generator=generator)

    def forward(self, t):
        return self.coefficients[0] + self.coefficients[1] * t.to(self.coefficients.dtype)


class Jump(Method):
    """Every feature of the contract at once; nothing that anybody would train."""

    name: ClassVar[str] = "jump"
    summary: ClassVar[str] = "for tests"
    processes: ClassVar[tuple[str, ...]] = ("vp", "ve")
    draws: ClassVar[int] = 3
    two_times: ClassVar[bool] = True
    any_nfe: ClassVar[bool] = True

    def default_schedule(self, nfe):
        return (8, 1)

    def parameterise(self, network, process):
        return Ended(network)

    def modules(self, shape):
        return {"weighting": Weighting()}

    def times(self, u, phase, progress, process):
        t = 0.1 + 0.8 * u[:, 0]
        return Times(t, t, t * u[:, 2])

    def objective(self, batch, phase, progress, nets, student):
        t, t_end = batch.times.t, batch.times.t_end
        velocity = batch.noise.double() - batch.x0.double()
        with torch.no_grad():
            x0, slope = torch.func.jvp(
                lambda x, time: nets.frozen(x, time, batch.labels, t_end),
                (batch.x_t, t),
                (velocity, torch.ones_like(t)),
            )
            target = nets.teacher(batch.x_t, t, batch.labels, t_end) + 0.1 * (progress + 1) * slope.tanh() - 0.01 * x0
        weight = nets.modules["weighting"](t)
        distance = (student(batch.x_t, t, batch.labels, t_end) - target).square().flatten(1).mean(1)
        return weight.exp() * distance - weight

    def sampler(self, nfe, process):
        times = Sampler.equal(nfe).times
        return Sampler(times, noise=(0.0,) * (nfe - 1))


def network():
    arguments = {"channels": 1, "size": 2, "width": 8, "blocks": 1, "embedding": 4}
    return X0Denoiser(build_network("mlp", arguments, generator("tests", "weights")), VP()).requires_grad_(False).eval()


def distillation(batch=4, steps=7, schedule=(8, 4, 1), **how):
    changes = {name: how.pop(name) for name in list(how) if name in RunConfig.model_fields}
    settings = {
        "method": "jump", "dataset": "digits", "tier": "smoke", "teacher": "t", "grid_steps": 8, "schedule": schedule,
        "budget": batch * steps, "batch": batch, "lr": 1e-2, "seed": 3,
    }  # fmt: skip
    images = 2 * torch.rand((16, 1, 2, 2), generator=generator("tests", "images")) - 1
    return Distillation(RunConfig.model_validate(settings | changes), Jump(), VP(), network(), images, **how)


def finished(run):
    while run.step < run.total:
        run.train_step()
    return {name: value.clone() for name, value in run.state().tensors.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("optimiser", ["adam", "radam"])
@pytest.mark.parametrize("phase_start", ["continue", "from_teacher"])
def test_student_modules_and_optimiser_resume_to_the_same_bits(tmp_path, phase_start, optimiser):
    how = {"phase_start": phase_start, "optimiser": optimiser}
    expected = finished(distillation(**how))
    assert {"modules.weighting.coefficients", "student.slope", "adam.0.exp_avg"} <= expected.keys()
    for step in (2, 5):  # within each phase
        stopped = distillation(**how)
        for _ in range(step):
            stopped.train_step()
        checkpoints = Checkpoints(tmp_path / f"{step}", ID)
        checkpoints.save(stopped.state())
        resumed = distillation(**how)
        distill(resumed, checkpoints, Progress())
        assert_same(resumed.state().tensors, expected)


@pytest.mark.parametrize("optimiser", ["adam", "radam"])
def test_convolutions_laid_out_channels_last_resume_to_the_same_bits(tmp_path, optimiser):
    arguments = {"channels": 3, "size": 4, "width": 32, "embedding": 32, "multipliers": (1,), "blocks": 1,
                 "attention": ()}  # fmt: skip
    random = generator("tests", "convolutions")
    images = 2 * torch.rand((16, 3, 4, 4), generator=random) - 1
    teacher = wrap(build_network("google_unet", arguments, random), "x0", VP()).requires_grad_(False).eval()
    config = distillation(optimiser=optimiser, steps=6).config

    def unet():
        return Distillation(config, TRACT(), VP(), teacher, images)

    expected = finished(unet())
    laid_out = [value for name, value in expected.items() if name.endswith("exp_avg") and value.ndim == 4]
    assert any(not value.is_contiguous() for value in laid_out)
    stopped = unet()
    for _ in range(4):
        stopped.train_step()
    checkpoints = Checkpoints(tmp_path, ID)
    checkpoints.save(stopped.state())
    resumed = unet()
    distill(resumed, checkpoints, Progress())
    assert_same(resumed.state().tensors, expected)


def test_modules_learn_and_start_from_the_training_seed():
    first, other = distillation(), distillation(seed=4)
    weighting = first.modules["weighting"].coefficients.detach().clone()
    assert torch.equal(distillation().modules["weighting"].coefficients, weighting)
    assert not torch.equal(other.modules["weighting"].coefficients, weighting)
    finished(first)
    assert bool((first.modules["weighting"].coefficients != weighting).all())
    assert first.student.slope.item() != 0


def test_micro_batches_and_shares_of_the_batch_have_the_gradient_of_the_whole():
    batch = 2 * BLOCK + 6
    whole = distillation(batch)
    parts = [distillation(batch, group=Group("cpu", rank, 4)) for rank in range(4)]  # one of them has no block
    micro = distillation(batch, micro_batch=5)
    gradients = []
    for run in (whole, micro, *parts):
        run.optimiser.zero_grad()
        run._backward(run._examples(0), run.plan.phase, 0.0)
        student, modules = ([p.grad.clone() for p in one.parameters()] for one in (run.student, run.modules))
        # a replica would leave the mean of the shares' gradients; what is no part of one is divided already
        gradients.append([g / (4 if run in parts else 1) for g in student] + modules)
    for expected, small, *shares in zip(*gradients, strict=True):
        torch.testing.assert_close(small, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sum(shares), expected, rtol=1e-4, atol=1e-5)


def test_gradients_outside_a_replica_become_the_mean_over_the_processes():
    class Alike(Group):
        def sum_(self, tensors):
            for tensor in tensors:
                tensor *= self.size

    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    parameters[0].grad = torch.tensor([1.0, -2.0])
    for group in (ALONE, Alike("cpu", 1, 3)):
        group.average_gradients(parameters)
        assert torch.equal(parameters[0].grad, torch.tensor([1.0, -2.0]))
        assert parameters[1].grad is None


def test_a_students_weights_are_loaded_into_what_parameterise_makes():
    run = distillation()
    finished(run)
    average = run.averaged()
    loaded = final_network(run.config, run.method, load_dataset("digits"), Teacher("t", network(), VP(), "hash"))
    loaded.load_state_dict(average.state_dict())
    x, t, end = torch.randn(3, 1, 2, 2), torch.full((3,), 0.5), torch.full((3,), 0.25)
    assert torch.equal(loaded(x, t, None, end), average(x, t, None, end))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_batches_draw_as_many_uniforms_as_the_method_says():
    run = distillation()
    times = run.draw(Phase(8, 1), 0.0).times
    assert run.batches.draw(0).u.shape == (4, 3)
    assert torch.equal(times.t_end, times.t * run.batches.draw(0).u[:, 2])


def test_a_profile_and_a_plan_ask_the_objective():
    # one teacher's pass; the student's derivative costs two
    assert count_passes(Jump(), VP(), (1, 2, 2), Phase(8, 1)) == Counted(1, 0, 2)
    parts = StepParts(distillation(steps=40))
    for work in (parts.floor(), parts.floor(updating=True), *parts.parts().values()):
        work()


# the default objective


class Plain(Jump):
    """The base's objective with a target."""

    objective = Method.objective

    def target(self, batch, phase, progress, nets):
        assert not torch.is_grad_enabled()
        return Target(torch.ones_like(batch.x_t), batch.times.t)


def test_the_default_objective_is_the_weighted_distance_at_the_jumps_end():
    asked = []

    def student(x, t, labels, t_end):
        asked.append((t, t_end))
        return torch.full_like(x, 3.0)

    batch = distillation().draw(Phase(8, 1), 0.0)
    found = Plain().objective(batch, Phase(8, 1), 0.5, None, student)
    torch.testing.assert_close(found, batch.times.t * 4 * (3 - 1) ** 2)
    assert asked == [(batch.times.t, batch.times.t_end)]
    assert count_passes(Plain(), VP(), (1, 2, 2), Phase(8, 1)) == Counted(0, 0, 0)


# derivatives of the frozen student


@pytest.mark.parametrize("compiling", [False, True])
def test_forward_mode_goes_through_attention_and_around_compiled_passes(monkeypatch, compiling):
    def unsuitable(network):
        def forward(*arguments):
            assert not forward_mode(*(a for a in arguments if isinstance(a, torch.Tensor)))
            return network(*arguments)

        return forward

    monkeypatch.setattr("tractbench.training.passes.compiled", unsuitable)
    arguments = {
        "channels": 1, "size": 4, "width": 32, "embedding": 8, "multipliers": (1,), "blocks": 1, "attention": (4,),
    }  # fmt: skip
    net = X0Denoiser(build_network("google_unet", arguments, generator("tests", "attention")), VP()).double()
    with torch.no_grad():
        for parameter in net.parameters():  # last layers begin at zero
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    frozen = Passes("fp32", "cpu", compiling, ALONE).student(net).frozen
    random = torch.Generator().manual_seed(0)
    x, v = (torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=random) for _ in range(2))
    t, one = torch.tensor([0.3, 0.6], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    value, slope = torch.func.jvp(frozen, (x, t), (v, one))
    assert not value.requires_grad
    assert torch.equal(value, frozen(x, t)) or torch.allclose(value, frozen(x, t), rtol=1e-9)
    h = 1e-7
    central = (frozen(x + h * v, t + h * one) - frozen(x - h * v, t - h * one)) / (2 * h)
    torch.testing.assert_close(slope, central, rtol=1e-5, atol=1e-6)


# one student for several NFE


@pytest.fixture
def jump(monkeypatch):
    monkeypatch.setattr(resolving, "load_method", lambda name: Jump if name == "jump" else load_method(name))


def chosen(nfe, **changes):
    settings = {"method": "jump", "dataset": "gaussian:2", "process": "ve", "tier": "smoke", "grid_steps": 8}
    settings |= {"budget": 64, "batch": 32, "samples": 64, "chunk": 32, "sampling_seeds": (0,)}
    return resolve(settings | {"nfe": nfe} | changes)


def test_one_student_serves_every_nfe(jump):
    cells = [identify(*chosen(nfe)) for nfe in (1, 2, 4)]
    assert len({cell.student for cell in cells}) == 1
    assert len({cell.id for cell in cells}) == 3
    assert [cell.sampler.evaluations for cell in cells] == [1, 2, 4]
    assert chosen(2)[0].schedule == (8, 8, 1)  # the exact teacher moves into a network first
    with pytest.raises(ConfigError, match="it ends at 1 steps but nfe is 2"):
        resolve({"method": "tract", "dataset": "digits", "schedule": "8,1", "nfe": 2})


def test_an_optimiser_moves_the_student_and_the_comparison(jump):
    plain, radam = chosen(1), chosen(1, optimiser="radam")
    assert identify(*plain).student != identify(*radam).student
    assert comparison_form(*plain[:2]) != comparison_form(*radam[:2])
    assert "optimiser" not in comparison_form(*plain[:2])["training"]


def test_runs_at_two_nfe_train_once_and_are_sampled_with_fresh_noise(jump, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(drawing, "POINTS", 64)
    monkeypatch.setattr(drawing, "save_plane", lambda path, planes, density: shown.append(list(planes)))
    store, said = Store(tmp_path / "runs", create=True), []
    progress = Progress()
    progress.message = said.append
    first = make_run(*chosen(1), store, progress, Runtime()).record
    second = make_run(*chosen(2), store, progress, Runtime()).record
    assert (first.nfe_spent, second.nfe_spent) == (1, 2)
    assert second.training.reused_from == first.folder.rpartition("/")[2]
    assert first.hashes["student"] == second.hashes["student"]
    assert [error.end for error in second.distillation_errors] == [8, 1]
    assert any("using the student of" in text for text in said)
    assert shown == [["teacher, 8 steps", f"teacher, {steps}", f"jump, {steps}"] for steps in ("1 step", "2 steps")]


# what holds for every method


@pytest.mark.parametrize("name", method_names())
def test_methods_build_without_global_random_numbers(name):
    method, before = load_method(name)(), torch.get_rng_state()
    method.modules((1, 2, 2))
    method.parameterise(copy.deepcopy(network()), VP())
    assert torch.equal(torch.get_rng_state(), before)


def test_radams_first_step_is_plain_gradient_descent():
    # Liu et al. 2020: while the variance of the second moment is infinite, the step is the unadapted momentum's
    run = distillation(optimiser="radam", gradients="replace_nonfinite", steps=40, schedule=(8, 1))
    before = [p.detach().clone() for p in run.trained]
    run.train_step()
    for old, new in zip(before, run.trained, strict=True):
        torch.testing.assert_close(new.detach(), old - 1e-2 * new.grad, rtol=1e-5, atol=1e-7)
