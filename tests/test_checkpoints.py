"""Checkpoints in a folder: which are kept, which is gone on from, and what damage does."""

import itertools

import pytest
import torch
from test_distill import ID, TOTAL, assert_same, distillation, trained

import tractbench.training.loop as loop
from tractbench.errors import DamagedFileError
from tractbench.io.files import write_atomic
from tractbench.progress import Progress
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.loop import distill
from tractbench.training.state import Numbers, State

OTHER = "cd" * 32


pytestmark = pytest.mark.usefixtures("one_thread")


def state(step):
    numbers = Numbers(
        step=step, seconds=0.5, inference_updates=step, inference_share=0.1, self_teacher_updates=0,
        nonfinite_gradients=0, distillation_errors=(), losses=(),
    )  # fmt: skip
    return State({"student.weight": torch.full((3,), float(step))}, numbers)


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


class Told(Progress):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoints = Checkpoints(tmp_path / "folder", ID)
    assert checkpoints.newest() is None
    assert checkpoints.files() == {}
    assert checkpoints.save(state(3)) == tmp_path / "folder" / "checkpoint-000000003.safetensors"
    found = checkpoints.newest()
    assert found.numbers == state(3).numbers
    assert torch.equal(found.tensors["student.weight"], torch.full((3,), 3.0))


def test_the_last_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, ID)
    for step in (9, 10, 100, 1000):
        checkpoints.save(state(step))
    assert list(checkpoints.files()) == [100, 1000]
    assert checkpoints.newest().numbers.step == 1000


def test_steps_are_compared_as_numbers(tmp_path):
    checkpoints = Checkpoints(tmp_path, ID)
    step = 10**9  # more digits than are padded
    for each in (step - 1, step):
        checkpoints.save(state(each))
    assert list(checkpoints.files()) == [step - 1, step]
    assert checkpoints.newest().numbers.step == step


def test_a_damaged_newest_one_falls_back_to_the_one_before_and_says_so(tmp_path):
    checkpoints, told = Checkpoints(tmp_path, ID), []
    for step in (5, 8):
        checkpoints.save(state(step))
    damage(checkpoints.path(8))
    assert checkpoints.newest(told.append).numbers.step == 5
    (text,) = told
    assert str(checkpoints.path(8)) in text
    assert checkpoints.path(5).name in text
    # training goes on from 5: what lies after it is worthless, and the good one before the new one is kept
    checkpoints.save(state(6))
    assert list(checkpoints.files()) == [5, 6]


def test_when_all_are_damaged_the_remedy_names_them(tmp_path):
    checkpoints, told = Checkpoints(tmp_path, ID), []
    checkpoints.save(state(5))
    damage(checkpoints.path(5))
    with pytest.raises(DamagedFileError, match="delete it to train from the start") as one:
        checkpoints.newest(told.append)
    assert str(checkpoints.path(5)) in str(one.value)
    write_atomic(checkpoints.path(8), b"")
    with pytest.raises(DamagedFileError, match="delete them to train from the start") as two:
        checkpoints.newest(told.append)
    assert all(str(checkpoints.path(step)) in str(two.value) for step in (5, 8))
    assert told == []


def test_files_of_another_student_are_neither_read_nor_removed(tmp_path):
    Checkpoints(tmp_path, OTHER).save(state(50))
    own = Checkpoints(tmp_path, ID)
    assert own.newest() is None
    for step in (1, 2, 3):
        own.save(state(step))
    assert list(own.files()) == [2, 3, 50]
    assert own.newest().numbers.step == 3
    own.clear()
    assert list(own.files()) == [50]
    assert Checkpoints(tmp_path, OTHER).newest().numbers.step == 50


def test_a_damaged_file_is_not_taken_for_another_students(tmp_path):
    checkpoints = Checkpoints(tmp_path, ID)
    path = checkpoints.save(state(4))
    path.write_bytes(path.read_bytes().replace(ID.encode(), OTHER.encode()))
    with pytest.raises(DamagedFileError):
        checkpoints.newest()


def test_prefixes_keep_apart(tmp_path):
    plain, forced = Checkpoints(tmp_path, ID), Checkpoints(tmp_path, ID, "forced-checkpoint")
    plain.save(state(1))
    assert forced.newest() is None
    forced.save(state(7))
    assert plain.newest().numbers.step == 1
    plain.clear()
    assert (list(plain.files()), list(forced.files())) == ([], [7])


def test_clearing_removes_damaged_files_and_nothing_else(tmp_path):
    checkpoints = Checkpoints(tmp_path, ID)
    for step in (1, 2):
        checkpoints.save(state(step))
    damage(checkpoints.path(2))
    (tmp_path / "student.safetensors").write_bytes(b"kept")
    (tmp_path / "checkpoint-latest.safetensors").write_bytes(b"kept")
    checkpoints.clear()
    assert {path.name for path in tmp_path.iterdir()} == {"student.safetensors", "checkpoint-latest.safetensors"}


# in training


@pytest.mark.parametrize(
    ("every", "writing", "steps"),
    [
        (3.0, 100.0, [3, 6, 9]),  # as asked, however long writing takes: time is looked at after each step
        (None, 0.02, [3, 6, 9]),  # 1% of the time is less than 3 seconds
        (None, 0.045, [3, 8]),  # 4.5 seconds at least, after the first
    ],
)
def test_checkpoints_are_made_by_time(tmp_path, monkeypatch, every, writing, steps):
    clock = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 3.0)
    saved = []

    class Watched(Checkpoints):
        def save(self, state):
            saved.append(state.numbers.step)
            clock[0] += writing
            return super().save(state)

    def a_step_takes_a_second():
        clock[0] += 1.0
        return False

    distill(distillation(), Watched(tmp_path, ID), Progress(), checkpoint_every=every, stop=a_step_takes_a_second)
    assert saved == steps


def test_a_short_run_makes_none(tmp_path):
    trained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_from_the_one_before_a_damaged_one_to_the_same_bits(tmp_path):
    run, checkpoints, progress = distillation(), Checkpoints(tmp_path, ID), Told()
    for _ in range(8):
        run.train_step()
        if run.step in (4, 8):
            checkpoints.save(run.state())
    damage(checkpoints.path(8))
    resumed = distill(distillation(), checkpoints, progress)
    assert_same(resumed, trained(tmp_path / "whole"))
    assert "checkpoint-000000008.safetensors is damaged" in progress.messages[0]
    assert progress.messages[1] == f"resuming at step 4 of {TOTAL}"


def test_the_original_teacher_is_not_saved():
    run = distillation()
    sizes = {}
    for step in range(TOTAL):
        sizes[step] = any(name.startswith("teacher.") for name in run.state().tensors)
        run.train_step()
    # the second phase begins with the step after the fifth
    assert sizes == {step: step > 5 for step in range(TOTAL)}


def test_a_state_is_saved_without_copies():
    run = distillation()
    run.train_step()
    own = {p.data_ptr() for p in run.student.parameters()}
    found = {t.data_ptr() for name, t in run.state().tensors.items() if name.startswith("student.")}
    assert found == own


@pytest.mark.parametrize("step", range(0, TOTAL, 3))
def test_restoring_forgets_what_was_before(tmp_path, step):
    states, run = [], distillation()
    for _ in range(TOTAL):
        Checkpoints(tmp_path / str(run.step), ID).save(run.state())
        states.append(run.step)
        run.train_step()
    assert states == list(range(TOTAL))
    back = Checkpoints(tmp_path / str(step), ID).newest()
    run.restore(back)
    while run.step < TOTAL:
        run.train_step()
    fresh = distillation()
    while fresh.step < TOTAL:
        fresh.train_step()
    for a, b in itertools.zip_longest(run.averaged().parameters(), fresh.averaged().parameters()):
        assert torch.equal(a, b)
