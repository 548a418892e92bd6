"""Runs killed by SIGKILL at their file operations, or at any time, end with the same numbers and files when repeated.

A few points are tried always, every one (an hour) and random times where ``TRACTBENCH_ALL_FAULTS`` is set.
"""

import json
import os
import random

import pytest
import torch
from killed_runs import kill_and_repeat

from tractbench.errors import StoreError
from tractbench.teachers.readers.foreign import write_safetensors
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.state import Numbers, State

SMALL = ("--dataset", "digits", "--tier", "smoke", "--nfe", "1", "--budget", "2K", "--samples", "64",
         "--sampling-seeds", "0", "--checkpoint-every", "0.000001s", "--quiet")  # fmt: skip
RUNS = {
    "tract": ("run", "--method", "tract", "--schedule", "8,2,1", *SMALL),
    "btd": ("run", "--method", "btd", "--schedule", "4,2,1", *SMALL),
}
ALL = bool(os.environ.get("TRACTBENCH_ALL_FAULTS"))
SAMPLED = 3


def killed(forked, folder, points, words):
    """Return what a whole run left, and what each of the killed ones did."""
    done = forked(str(folder), str(points), *words, function=kill_and_repeat, OMP_NUM_THREADS="1")
    assert done.wait(None if ALL else 240) == 0, done.err
    whole, *others = map(json.loads, done.out.splitlines())
    assert (whole["first"], whole["status"]) == (0, ["done"]), whole["said"]
    assert whole["operations"] > 20
    assert not [name for name in whole["files"] if name.endswith(".tmp")]
    return whole, others


def same(found, whole):
    assert found["again"] == 0, (found["point"], found["said"])
    assert "Traceback" not in found["said"]
    for key in ("status", "metrics", "student", "pictures"):
        assert found[key] == whole[key], (found["point"], key)
    assert needed(found) == needed(whole), found["point"]


def needed(left):
    """The files but for the index, which the next reader makes anew, and what was being written to make the store."""
    other = ("runs/records.jsonl", "runs/.records.lock", "runs/.tractbench-store.json.")
    return [name for name in left["files"] if not name.startswith(other)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("method", RUNS if ALL else ["tract"])
def test_a_kill_at_any_file_operation_changes_nothing(forked, tmp_path, method):
    whole, others = killed(forked, tmp_path, "all" if ALL else SAMPLED, RUNS[method])
    assert len(others) == (whole["operations"] if ALL else SAMPLED)
    for found in others:
        assert found["first"] == -9, found["point"]
        same(found, whole)


@pytest.mark.skipif(not ALL, reason="many runs; set TRACTBENCH_ALL_FAULTS")
@pytest.mark.parametrize("method", RUNS)
def test_a_kill_at_any_time_changes_nothing(forked, tmp_path, method):
    times = ",".join(f"{random.Random(index).uniform(0, 4):.3f}s" for index in range(24))
    whole, others = killed(forked, tmp_path, times, RUNS[method])
    for found in others:
        same(found, whole)


@pytest.fixture
def small_files():
    """No file may grow beyond so many bytes, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_keeps_the_one_before(tmp_path, small_files):
    def state(step, size):
        numbers = Numbers(
            step=step, seconds=0.5, inference_updates=0, inference_share=0.0, self_teacher_updates=0,
            nonfinite_gradients=0, distillation_errors=(), losses=(),
        )  # fmt: skip
        return State({"a": torch.ones(size)}, numbers)

    checkpoints = Checkpoints(tmp_path, "s")
    checkpoints.save(state(1, 8))
    small_files(4096)
    with pytest.raises(StoreError, match="File too large; make room"):
        checkpoints.save(state(2, 8000))
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.path(1).name]
    found = checkpoints.newest()
    assert found is not None
    assert found.numbers.step == 1


def test_weights_of_others_formats_that_do_not_fit_leave_nothing(tmp_path, small_files):
    small_files(4096)
    with pytest.raises(StoreError, match="File too large; make room"):
        write_safetensors({"a": torch.ones(8000)}, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_a_full_disk_is_recorded_as_failed_and_goes_on_when_there_is_room(tractbench, tmp_path, small_files):
    small_files(1 << 20)  # less than a checkpoint, more than a record
    done = tractbench(*RUNS["tract"])
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "make room" in done.err
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/cells/*/record.json"))
    assert (record["status"], "make room" in record["reason"]) == ("failed", True)
    assert not list(tmp_path.rglob("*.tmp"))
    small_files(1 << 30)
    assert tractbench(*RUNS["tract"]).code == 0
