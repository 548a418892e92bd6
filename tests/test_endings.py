"""However a run ends, its record says so, and what was done is kept."""

import json
from pathlib import Path

import pytest
import torch
from forked import until
from processes import alone

from tractbench.cli.interrupts import EXIT_CODES
from tractbench.errors import RunFailedError
from tractbench.pipeline.failures import failure_kind

TRACT = ("run", "--method", "tract", "--dataset", "digits", "--tier", "smoke", "--nfe", "1", "--schedule", "16,4,1")


def the_record():
    (path,) = Path("runs/cells").glob("*/record.json")
    return json.loads(path.read_text())


def log():
    (path,) = Path("runs/cells").glob("*/log.txt")
    return path.read_text()


@pytest.mark.parametrize(("error", "kind"), [
    (RunFailedError("diverged: loss is nan"), "diverged"),
    (MemoryError(), "out of memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), "lost the device"),
    (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, unhandled system error"), "lost the device"),
    (ValueError("the words out of memory in something else"), "error"),
    (RuntimeError("size mismatch"), "error"),
])  # fmt: skip
def test_failures_have_kinds(error, kind):
    assert failure_kind(error) == kind


@pytest.mark.parametrize(("raised", "kind", "words"), [
    (torch.OutOfMemoryError("CUDA out of memory"), "out of memory", "lower --batch"),
    (RuntimeError("CUDA error: unspecified launch failure"), "lost the device", "goes on from the last checkpoint"),
])  # fmt: skip
def test_a_failure_of_the_machine_is_one_line_and_a_record(tractbench, monkeypatch, raised, kind, words):
    _raise_in_training(monkeypatch, raised)
    result = tractbench(*TRACT, "--quiet")
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    assert words in result.err
    record = the_record()
    assert (record["status"], record["failure"]) == ("failed", kind)
    assert words in record["reason"]
    assert "Traceback" in log()


def test_a_bug_keeps_its_traceback_in_the_log_and_on_the_terminal(tractbench, monkeypatch):
    _raise_in_training(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        tractbench(*TRACT, "--quiet")
    record = the_record()
    assert (record["status"], record["failure"], record["reason"]) == ("failed", "error", "ZeroDivisionError: a bug")
    assert "Traceback" in log()
    assert "ZeroDivisionError: a bug" in log()
    monkeypatch.undo()


def _raise_in_training(monkeypatch, error):
    from tractbench.training.distillation import Distillation

    original = Distillation.train_step

    def step(self):
        if self.step == 3:
            raise error
        original(self)

    monkeypatch.setattr(Distillation, "train_step", step)


def test_a_failed_run_that_succeeds_later_is_done(tractbench, monkeypatch):
    with monkeypatch.context() as patch:
        _raise_in_training(patch, torch.OutOfMemoryError("CUDA out of memory"))
        assert tractbench(*TRACT).code == 1
    assert tractbench(*TRACT, "--json").json["status"] == "done"
    assert the_record()["status"] == "done"
    assert "failed: out of memory" in log()


def test_a_failure_never_replaces_a_result(tractbench, monkeypatch):
    first = tractbench(*TRACT, "--json").json
    with monkeypatch.context() as patch:
        _raise_in_training(patch, torch.OutOfMemoryError("CUDA out of memory"))
        assert tractbench(*TRACT, "--force").code == 1
    assert the_record()["status"] == "done"
    assert "failed: out of memory" in log()
    again = tractbench(*TRACT, "--json").json
    assert again["reused"]
    assert again["metrics"] == first["metrics"]


@pytest.mark.parametrize("name", sorted(EXIT_CODES))
def test_every_signal_saves_and_stops_with_a_code_of_its_own(tractbench, forked, name):
    process = forked(20, name, *TRACT, "--quiet", function=alone)
    assert process.wait() == EXIT_CODES[name], process.err
    record = the_record()
    assert record["status"] == "interrupted"
    assert "the same command goes on from there" in record["reason"]
    assert len(list(Path("runs").glob("students/*/checkpoint-*.safetensors"))) == 1
    listed = tractbench("list", "runs").out
    assert "interrupted" in listed


def test_exit_codes_are_distinct():
    assert len(set(EXIT_CODES.values()) | {0, 1, 2}) == len(EXIT_CODES) + 3


def test_a_record_is_written_last(tractbench, monkeypatch):
    """Whatever is drawn is there before a run is done; a run that dies while drawing is done again."""

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tractbench.pipeline.draw.save_grid", die)
        assert tractbench(*TRACT).code == 130
    assert the_record()["status"] == "interrupted"
    result = tractbench(*TRACT, "--json").json
    assert not result["reused"]
    assert {"samples.png", "grid.png", "teacher-grid.png"} <= {p.name for p in Path(result["run_dir"]).iterdir()}


def test_two_cells_of_one_student_train_it_once(forked):
    both = [forked(*TRACT, "--sampling-seeds", seeds, OMP_NUM_THREADS="1") for seeds in ("0", "1")]
    codes = [process.wait() for process in both]
    errors = [process.err for process in both]
    assert codes == [0, 0], errors
    assert len(list(Path("runs/students").iterdir())) == 1
    records = [json.loads(p.read_text()) for p in Path("runs/cells").glob("*/record.json")]
    reused = [record["training"]["reused_from"] for record in records]
    assert reused.count(None) == 1
    assert len({record["hashes"]["student"] for record in records}) == 1
    assert sum("using the student of" in error for error in errors) == 1


def test_who_waits_for_a_student_takes_over_when_the_first_dies(forked):
    command = (*TRACT, "--checkpoint-every", "0.000001s", "--sampling-seeds")
    # it holds the student and does not get on with it
    first = forked(40, "SIGSTOP", *command, "0", function=alone, OMP_NUM_THREADS="1")
    until(lambda: list(Path("runs").glob("students/*/checkpoint-000000040.safetensors")))
    second = forked(*command, "1", OMP_NUM_THREADS="1")
    until(lambda: "is being trained by" in second.err)
    first.kill()
    assert second.wait() == 0, second.err
    assert "resuming at step 40" in second.err.partition("is being trained by")[2]
