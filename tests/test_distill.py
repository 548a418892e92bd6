import copy
import itertools
import random
from contextlib import contextmanager
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pytest
import torch

import tractbench.training.distillation as engine
import tractbench.training.loop as loop
from tractbench.config.fields import RunConfig
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VP, per_sample
from tractbench.errors import InterruptedRunError, RunFailedError
from tractbench.method import Phase
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.progress import Progress, Task
from tractbench.seeds import generator
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation
from tractbench.training.loop import distill

PHASE_STARTS, EMA_RESETS = ("continue", "from_teacher"), ("none", "phase")
TOTAL = 11  # steps: 5 in the first phase, 6 in the second
ID = "ab" * 32


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def frequent_logs(monkeypatch):
    monkeypatch.setattr(engine, "LOG_EVERY", 3)


def config(**changes):
    settings = {
        "method": "tract",
        "dataset": "digits",
        "tier": "smoke",
        "teacher": "digits-vp",
        "grid_steps": 1024,
        "schedule": (8, 4, 1),
        "budget": 4 * TOTAL,
        "batch": 4,
        "lr": 1e-2,
        "seed": 3,
    }
    return RunConfig.model_validate(settings | changes)


@lru_cache
def network():
    arguments = {"channels": 1, "size": 2, "width": 8, "blocks": 1, "embedding": 4}
    return X0Denoiser(build_network("mlp", arguments, generator("tests", "weights")), VP()).requires_grad_(False).eval()


def images():
    return 2 * torch.rand((16, 1, 2, 2), generator=generator("tests", "images")) - 1


def distillation(method=None, flips=False, **changes):
    return Distillation(config(**changes), method or TRACT(), VP(), network(), images(), flips=flips)


def trained(path, run=None, **changes):
    return distill(run or distillation(**changes), Checkpoints(path, ID), Progress())


def saved_at(step, path, run):
    """A run's checkpoint after so many steps, as if it had then been stopped."""
    for _ in range(step):
        run.train_step()
    Checkpoints(path, ID).save(run.state())


def bits(result):
    return {name: value.numpy().tobytes() for name, value in result.student.state_dict().items()}


def assert_same(result, expected):
    assert bits(result) == bits(expected)
    assert result.losses == expected.losses
    assert (result.steps, result.images) == (expected.steps, expected.images)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Results of whole runs by (phase_start, ema_reset)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "LOG_EVERY", 3)
        return {
            (start, reset): trained(tmp_path_factory.mktemp("whole"), phase_start=start, ema_reset=reset)
            for start, reset in itertools.product(PHASE_STARTS, EMA_RESETS)
        }


class Killed(BaseException):
    pass


class KillAt(Progress):
    """Dies in the middle of the run, as a killed process does: nothing is saved on the way out."""

    def __init__(self, step):
        self.step = step

    @contextmanager
    def task(self, description, total, unit, done=0):
        yield KillingTask(self.step - done)


class KillingTask(Task):
    def __init__(self, left):
        self.left = left

    def advance(self, amount=1, note=""):
        self.left -= amount
        if self.left == 0:
            raise Killed


@pytest.mark.parametrize("ema_reset", EMA_RESETS)
@pytest.mark.parametrize("phase_start", PHASE_STARTS)
@pytest.mark.parametrize("step", range(TOTAL + 1))
def test_a_run_saved_at_any_step_resumes_to_the_same_bits(tmp_path, uninterrupted, step, phase_start, ema_reset):
    saved_at(step, tmp_path, distillation(phase_start=phase_start, ema_reset=ema_reset))
    resumed = trained(tmp_path, phase_start=phase_start, ema_reset=ema_reset)
    assert_same(resumed, uninterrupted[phase_start, ema_reset])


@pytest.mark.parametrize("step", range(1, TOTAL))
def test_a_killed_run_resumes_from_its_last_checkpoint_to_the_same_bits(tmp_path, monkeypatch, uninterrupted, step):
    monkeypatch.setattr(loop.time, "monotonic", itertools.count().__next__)  # a second passes between any two looks
    with pytest.raises(Killed):
        distill(distillation(), Checkpoints(tmp_path, ID), KillAt(step), checkpoint_every=3.0)
    assert_same(trained(tmp_path), uninterrupted["continue", "none"])


def test_a_run_stopped_after_every_step_ends_with_the_same_bits(tmp_path, uninterrupted):
    for step in range(1, TOTAL):
        with pytest.raises(InterruptedRunError, match=f"step {step} of {TOTAL}"):
            distill(distillation(), Checkpoints(tmp_path, ID), Progress(), stop=lambda: True)
    assert_same(trained(tmp_path), uninterrupted["continue", "none"])


@pytest.mark.parametrize("lr_schedule", ["constant", "linear"])
@pytest.mark.parametrize("mu_i", [None, 0.0, 0.9])
def test_every_schedule_of_rates_and_averages_resumes(tmp_path, lr_schedule, mu_i):
    changes = {"lr_schedule": lr_schedule, "mu_i": mu_i}
    whole = trained(tmp_path / "whole", **changes)
    for step in (2, 5, 8):
        saved_at(step, tmp_path / str(step), distillation(**changes))
        assert_same(trained(tmp_path / str(step), **changes), whole)


def test_a_method_without_self_teacher_resumes(tmp_path):
    class Regression(TRACT):
        self_teacher: ClassVar[bool] = False

        def target(self, batch, phase, progress, nets):
            return super().target(batch, phase, progress, type(nets)(nets.teacher, nets.frozen, nets.frozen))

    whole = trained(tmp_path / "whole", distillation(Regression()))
    saved_at(7, tmp_path, distillation(Regression()))
    assert_same(trained(tmp_path, distillation(Regression())), whole)


def test_the_same_run_twice_gives_the_same_bits(tmp_path, uninterrupted):
    with torch.random.fork_rng():
        torch.manual_seed(987654321)
        assert_same(trained(tmp_path), uninterrupted["continue", "none"])


def test_choices_of_later_phases_matter(uninterrupted):
    students = [bits(result) for result in uninterrupted.values()]
    assert all(a != b for a, b in itertools.combinations(students, 2))


@pytest.mark.parametrize("changes", [{"seed": 4}, {"lr": 1e-3}, {"mu_s": 0.0}, {"mu_i": 0.1}, {"clip_norm": 1e-3}])
def test_other_settings_give_other_bits(tmp_path, uninterrupted, changes):
    assert bits(trained(tmp_path, **changes)) != bits(uninterrupted["continue", "none"])


def test_training_moves_the_student(uninterrupted):
    assert bits(uninterrupted["continue", "none"]).keys() == network().state_dict().keys()
    for result in uninterrupted.values():
        moved = [
            not torch.equal(a, b) for a, b in zip(result.student.parameters(), network().parameters(), strict=True)
        ]
        assert any(moved)


def test_images_are_counted_as_seen(uninterrupted):
    for result in uninterrupted.values():
        assert (result.steps, result.images) == (TOTAL, 4 * TOTAL)
        assert [(p.step, p.phase, p.images) for p in result.losses] == [
            (3, 0, 12),
            (5, 0, 20),
            (6, 1, 24),
            (9, 1, 36),
            (11, 1, 44),
        ]


def test_the_student_carries_no_gradient_and_keeps_the_dtype(uninterrupted):
    result = uninterrupted["continue", "none"]
    assert not result.student.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in result.student.parameters())


def test_the_teacher_is_not_changed(tmp_path):
    teacher = copy.deepcopy(network())
    before = copy.deepcopy(teacher.state_dict())
    flags = [p.requires_grad for p in teacher.parameters()]
    source = images()
    run = Distillation(config(), TRACT(), VP(), teacher, source)
    distill(run, Checkpoints(tmp_path, ID), Progress())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert [p.requires_grad for p in teacher.parameters()] == flags
    assert all(p.grad is None for p in teacher.parameters())
    assert torch.equal(source, images())


def test_the_teacher_is_held_once():
    teacher = copy.deepcopy(network())
    run = Distillation(config(), TRACT(), VP(), teacher, images())
    assert run.teacher is teacher
    ours = {p.data_ptr() for p in teacher.parameters()}
    assert ours.isdisjoint(p.data_ptr() for p in run.student.parameters())
    assert ours.isdisjoint(t.data_ptr() for t in run.state().tensors.values())


@pytest.mark.parametrize("change", [lambda net: net.train(), lambda net: net.requires_grad_(True)])
def test_a_teacher_that_is_not_frozen_is_refused(change):
    teacher = copy.deepcopy(network())
    change(teacher)
    with pytest.raises(ValueError, match="must be frozen"):
        Distillation(config(), TRACT(), VP(), teacher, images())


def test_no_global_generator_is_touched(tmp_path):
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    trained(tmp_path, distillation(flips=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before[1], strict=True))  # noqa: NPY002
    assert random.getstate() == before[2]


@pytest.mark.parametrize("flips", [False, True])
def test_a_draw_depends_on_seed_and_step_only(flips):
    fresh, used = distillation(flips=flips), distillation(flips=flips, lr=0.5, schedule=(16, 2, 1), mu_s=0.1)
    for _ in range(3):
        used.train_step()
    fresh.step = used.step
    a, b = fresh.draw(Phase(8, 4), 0.0), used.draw(Phase(8, 4), 0.9)
    assert torch.equal(a.x_t, b.x_t)
    assert torch.equal(a.x0, b.x0)
    assert torch.equal(a.noise, b.noise)
    assert torch.equal(a.times.t, b.times.t)
    for other in (distillation(flips=flips, seed=4), distillation(flips=flips)):
        other.step = used.step + (other.config.seed == 3)
        assert not torch.equal(other.draw(Phase(8, 4), 0.0).noise, a.noise)


def test_a_draw_is_the_forward_process_of_training_images():
    run = distillation(batch=64, budget=64 * TOTAL)
    batch = run.draw(Phase(8, 4), 0.0)
    gamma = per_sample(VP().log_snr(batch.times.t).sigmoid(), batch.x_t)
    expected = gamma.sqrt() * batch.x0 + (1 - gamma).sqrt() * batch.noise
    torch.testing.assert_close(batch.x_t, expected, rtol=0, atol=1e-9)
    assert batch.x_t.dtype == torch.float64
    known = {image.numpy().tobytes() for image in images()}
    drawn = [image.numpy().tobytes() for image in batch.x0]
    assert set(drawn) <= known
    assert len(set(drawn)) > 8
    assert len(batch.times.t.unique()) > 4


def test_flips_mirror_about_half_of_the_images():
    batch = 256
    run = distillation(flips=True, batch=batch, budget=batch * TOTAL)
    plain = {image.numpy().tobytes() for image in images()}
    mirrored = {image.flip(-1).contiguous().numpy().tobytes() for image in images()}
    drawn = [image.contiguous().numpy().tobytes() for image in run.draw(Phase(8, 4), 0.0).x0]
    assert all(image in plain | mirrored for image in drawn)
    # five standard deviations of a fair coin
    assert sum(image in mirrored for image in drawn) == pytest.approx(batch / 2, abs=5 * 0.5 * batch**0.5)


def test_the_second_phases_teacher_is_the_first_ones_inference_average():
    run = distillation()
    while run.step < 5:
        run.train_step()
    network = copy.deepcopy(run.student)
    run.inference.copy_to(network)
    average = network.state_dict()
    student = copy.deepcopy(run.student.state_dict())
    assert not torch.equal(average["net.input.weight"], student["net.input.weight"])
    run.train_step()
    assert all(torch.equal(run.teacher.state_dict()[name], value) for name, value in average.items())


def test_from_teacher_starts_the_student_and_its_average_anew():
    seen = []

    class Watching(TRACT):
        def target(self, batch, phase, progress, nets):
            x, t = batch.x_t, batch.times.t
            seen.append((phase, nets.teacher(x, t), nets.frozen(x, t), nets.self_teacher(x, t)))
            return super().target(batch, phase, progress, nets)

    for start in PHASE_STARTS:
        seen.clear()
        run = distillation(Watching(), phase_start=start)
        while run.step < 7:
            run.train_step()
        phase, teacher, student, self_teacher = seen[5]
        assert phase == Phase(4, 1)
        assert torch.equal(teacher, student) == (start == "from_teacher")
        assert torch.equal(teacher, self_teacher) == (start == "from_teacher")
        updates = {int(state["step"]) for state in run.optimiser.state.values()}
        assert updates == ({2} if start == "from_teacher" else {7})


def test_resetting_the_inference_average_forgets_the_first_phase():
    run = distillation(ema_reset="phase", mu_i=0.999)
    while run.step < 6:
        run.train_step()
    network = copy.deepcopy(run.teacher)
    run.inference.copy_to(network)
    for average, parameter in zip(network.parameters(), run.student.parameters(), strict=True):
        assert torch.equal(average, parameter)


def test_a_linear_rate_falls_to_nothing_in_each_phase():
    rates = []
    run = distillation(lr_schedule="linear")
    while run.step < run.total:
        run.train_step()
        rates.append(run.optimiser.rate)
    assert rates == pytest.approx([0.01 * (1 - i / 5) for i in range(5)] + [0.01 * (1 - i / 6) for i in range(6)])


def test_a_perfect_student_has_no_loss():
    class Self(TRACT):
        def target(self, batch, phase, progress, nets):
            target = super().target(batch, phase, progress, nets)
            return type(target)(nets.frozen(batch.x_t, batch.times.t), target.weight)

    run = distillation(Self())
    for _ in range(3):
        run.train_step()
    assert [point.loss for point in run.losses] == [0.0]


def test_the_loss_is_the_weighted_mean_of_squared_distances():
    class Shifted(TRACT):
        def target(self, batch, phase, progress, nets):
            target = super().target(batch, phase, progress, nets)
            shift = torch.arange(len(batch.x_t)).reshape(-1, 1, 1, 1)
            return type(target)(nets.frozen(batch.x_t, batch.times.t) + shift, torch.full_like(target.weight, 0.5))

    run = distillation(Shifted())
    for _ in range(3):
        run.train_step()
    # images of four pixels off by 0, 1, 2 and 3, weight one half
    assert run.losses[0].loss == pytest.approx(0.5 * 4 * (0 + 1 + 4 + 9) / 4, rel=1e-5)


class Failing(TRACT):
    value: str

    def target(self, batch, phase, progress, nets):
        target = super().target(batch, phase, progress, nets)
        return type(target)(torch.full_like(target.x0, float(self.value)), target.weight)


@pytest.mark.parametrize("value", ["nan", "inf", "1e30"])
def test_a_loss_that_is_not_finite_fails_the_run(tmp_path, value):
    with pytest.raises(RunFailedError, match=r"^diverged: loss is (nan|inf) at step 3 of 11") as caught:
        trained(tmp_path, distillation(Failing(value=value)))
    assert "\n" not in str(caught.value)
    assert "--lr" in str(caught.value)


def test_stopping_leaves_a_checkpoint_and_says_what_is_kept(tmp_path):
    checkpoints, asked = Checkpoints(tmp_path / "deep", ID), []
    with pytest.raises(InterruptedRunError, match="step 4 of 11") as caught:
        distill(distillation(), checkpoints, Progress(), stop=lambda: asked.append(0) or len(asked) == 4)
    assert str(checkpoints.path(4)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(checkpoints.files()) == [4]
    run = distillation()
    run.restore(checkpoints.newest())
    assert run.step == 4


def test_a_stop_after_the_last_step_is_a_whole_run(tmp_path, uninterrupted):
    run = distillation()
    result = distill(run, Checkpoints(tmp_path, ID), Progress(), stop=lambda: run.step == TOTAL)
    assert_same(result, uninterrupted["continue", "none"])
