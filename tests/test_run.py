import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import alone
from safetensors.torch import load_file

from tractbench.training.distillation import Distillation

SMOKE = ("--dataset", "digits", "--tier", "smoke")
TRACT = ("run", "--method", "tract", *SMOKE, "--nfe", "1", "--schedule", "16,4,1")


def student_folder(run):
    """The student's folder of a run in a store of its own."""
    folder = Path(run["run_dir"])
    return folder.parents[1] / "students" / json.loads((folder / "record.json").read_text())["student"]


def files(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name[0] != "."}


def test_a_run_prints_one_object_and_leaves_one_folder(tractbench):
    result = tractbench(*TRACT, "--json", "--quiet")
    assert (result.code, result.err) == (0, "")
    run = result.json
    assert (run["status"], run["method"], run["dataset"], run["nfe"], run["tier"]) == (
        "done",
        "tract",
        "digits",
        1,
        "smoke",
    )
    assert run["schedule"] == [16, 4, 1]
    assert run["nfe_spent"] == 1
    for metric in run["metrics"].values():
        assert len(metric["per_seed"]) == 3
        assert metric["mean"] == pytest.approx(sum(metric["per_seed"]) / 3)
    folder = Path(run["run_dir"])
    names = {
        "config.json",
        "record.json",
        "log.txt",
        "samples.png",
        "grid.png",
        "teacher-grid.png",
    }
    assert {p.name for p in folder.iterdir() if p.name[0] != "."} == names
    assert {p.name for p in student_folder(run).iterdir() if p.name[0] != "."} == {"loss.csv", "student.safetensors"}
    assert (folder / "samples.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for grid in (Image.open(folder / "grid.png"), Image.open(folder / "teacher-grid.png")):
        pixels = np.asarray(grid) / 255
        assert pixels.shape == (6 * 9 - 1, 6 * 9 - 1)
        assert (pixels[8::9] == 1).all()
        np.testing.assert_allclose(pixels * 16, np.round(pixels * 16), atol=0.04)  # the digits' 17 grey levels
    record = json.loads((folder / "record.json").read_text())
    assert record["identity"] == run["identity"]
    assert record["training"]["images"] == 8192
    losses = list(csv.DictReader((student_folder(run) / "loss.csv").read_text().splitlines()))
    assert [losses[0]["phase"], losses[-1]["phase"], losses[-1]["step"]] == ["1", "2", "64"]


def test_the_same_command_finds_the_cell_done_and_force_repeats_it_to_the_bit(tractbench, smoke):
    first = smoke
    before = files(Path("runs"))
    again = tractbench(*TRACT, "--json").json
    assert again["reused"]
    assert files(Path("runs")) == before
    assert "already done" in tractbench(*TRACT).out
    forced = tractbench(*TRACT, "--json", "--force").json
    assert not forced["reused"]
    assert forced["metrics"] == first["metrics"]
    old = json.loads(before[Path(first["run_dir"], "record.json").relative_to("runs").as_posix()])
    new = json.loads(Path(forced["run_dir"], "record.json").read_text())
    assert old["hashes"] == new["hashes"]
    student = (student_folder(first) / "student.safetensors").relative_to("runs").as_posix()
    tensors, old = load_file(Path("runs", student)), before[student]
    Path("old.safetensors").write_bytes(old)
    assert all(tensors[name].equal(value) for name, value in load_file("old.safetensors").items())
    assert len(tractbench("list", "runs", "--json").json) == 1


def test_other_sampling_seeds_score_the_same_student_without_training(tractbench, smoke):
    first = smoke
    result = tractbench(*TRACT, "--json", "--sampling-seeds", "2-4")
    other = result.json
    assert "using the student of" in result.err
    assert other["identity"] != first["identity"]
    assert other["metrics"]["fd_pixel"]["per_seed"][0] == first["metrics"]["fd_pixel"]["per_seed"][2]
    record = json.loads(Path(other["run_dir"], "record.json").read_text())
    assert record["training"]["reused_from"] == Path(first["run_dir"]).name
    assert record["training"]["environment"]["packages"]["torch"]
    assert student_folder(other) == student_folder(first)


def test_another_training_seed_is_another_student(tractbench, smoke):
    first, other = smoke, tractbench(*TRACT, "--json", "--seed", "1").json
    assert first["metrics"]["fd_pixel"]["per_seed"] != other["metrics"]["fd_pixel"]["per_seed"]


@pytest.mark.parametrize("batch", [1, 7, 5000])
def test_sample_batch_changes_no_score(tractbench, batch):
    ddim = (
        "run",
        "--method",
        "ddim",
        *SMOKE,
        "--nfe",
        "2",
        "--set",
        "chunk=100",
        "--set",
        "grid_steps=16",
        "--json",
        "--force",
    )
    assert tractbench(*ddim, "--sample-batch", batch).json["metrics"] == tractbench(*ddim).json["metrics"]


def test_ddim_spends_what_it_says(tractbench):
    run = tractbench("run", "--method", "ddim", *SMOKE, "--nfe", "4", "--set", "grid_steps=16", "--json").json
    assert run["nfe_spent"] == 4
    assert run["schedule"] == []


def test_settings_come_from_flags_then_file(tractbench):
    Path("run.toml").write_text('method = "tract"\ndataset = "digits"\ntier = "smoke"\nmu_s = 0.9\nseed = 3\n'
                                'grid_steps = 16\nschedule = [16, 4, 1]\n')  # fmt: skip
    run = tractbench("run", "--config", "run.toml", "--seed", "4", "--set", "loss_weight=uniform", "--json").json
    config = json.loads(Path(run["run_dir"], "config.json").read_text())
    assert (config["mu_s"], config["seed"], config["options"]["loss_weight"]) == (0.9, 4, "uniform")


def test_a_diverging_run_is_recorded_as_failed(tractbench, monkeypatch):
    import torch

    from tractbench.methods.tract import TRACT as Method

    original = Method.target
    calls = []

    def target(self, batch, phase, progress, nets):
        calls.append(0)
        found = original(self, batch, phase, progress, nets)
        return type(found)(found.x0 * (torch.nan if len(calls) > 34 else 1), found.weight)

    monkeypatch.setattr(Method, "target", target)
    result = tractbench(*TRACT, "--json")
    assert result.code == 1
    assert result.json["status"] == "failed"
    assert result.err.splitlines()[-1].startswith(
        "tractbench: diverged: loss is nan at step 40 of 64 (phase 2); lower --lr"
    )
    (record,) = Path("runs/cells").glob("*/record.json")
    failed = json.loads(record.read_text())
    assert (failed["status"], failed["failure"]) == ("failed", "diverged")
    report = tractbench("report", "--format", "markdown")
    assert "failed: diverged: loss is nan" in report.out


def test_a_killed_run_resumes_to_the_same_bits(tractbench, forked):
    whole = tractbench(*TRACT, "--json", "--runs", "whole").json
    process = forked(20, "SIGINT", *TRACT, "--runs", "stopped", "--quiet", function=alone)
    assert process.wait() == 130, process.err
    assert "kept: " in process.err
    assert "the same command goes on from there" in process.err
    (checkpoint,) = Path("stopped").glob("students/*/checkpoint-*.safetensors")
    result = tractbench(*TRACT, "--runs", "stopped", "--json")
    assert "resuming at step 21 of 64" in result.err
    assert not checkpoint.exists()
    resumed = result.json
    assert resumed["identity"] == whole["identity"]
    assert resumed["metrics"] == whole["metrics"]
    assert (student_folder(resumed) / "loss.csv").read_bytes() == (student_folder(whole) / "loss.csv").read_bytes()
    for name in ("samples.png", "grid.png", "teacher-grid.png"):
        assert Path(resumed["run_dir"], name).read_bytes() == Path(whole["run_dir"], name).read_bytes()
    ours, theirs = (load_file(student_folder(run) / "student.safetensors") for run in (resumed, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["student.safetensors", "checkpoint-000000040.safetensors"])
def test_a_damaged_saved_file_is_refused_with_the_remedy(tractbench, smoke, name):
    student = student_folder(smoke) / "student.safetensors"
    damaged = bytearray(student.read_bytes())
    damaged[-5] ^= 1
    student.unlink()
    student.with_name(name).write_bytes(damaged)
    result = tractbench(*TRACT, "--sampling-seeds", "5")
    assert result.code == 2
    assert "is damaged" in result.err
    assert "delete it to train" in result.err


def test_the_same_bits_whatever_the_global_random_state(tractbench):
    import torch

    state = torch.get_rng_state()
    tractbench(*TRACT)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unwritable_results_folder_is_one_line(tractbench):
    Path("file").write_text("not a folder")
    result = tractbench(*TRACT, "--runs", "file/runs", "--quiet")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    if os.geteuid() != 0:
        Path("locked").mkdir(mode=0o500)
        assert tractbench(*TRACT, "--runs", "locked/runs").code == 2


def test_a_teacher_of_ones_own(tractbench, smoke):
    made = tractbench("teacher", "train", "--dataset", "digits", "--process", "vp", "--steps", "3", "--quiet")
    assert made.code == 0
    card = "teachers/digits-vp.toml"
    assert Path(card).exists()
    own = tractbench(*TRACT, "--teacher", card, "--json").json
    assert own["identity"] != smoke["identity"]
    Path("teachers/digits-vp.safetensors").write_bytes(b"damaged")
    broken = tractbench(*TRACT, "--teacher", card, "--force")
    assert broken.code == 2
    assert "sha256" in broken.err


def test_an_interrupted_forced_run_keeps_the_result_and_goes_on_when_forced_again(tractbench, smoke, monkeypatch):
    first = smoke
    before = files(Path("runs"))
    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "measure", _stop_after(40))
        stopped = tractbench(*TRACT, "--force")
    assert stopped.code == 130
    assert "forced-checkpoint-000000040.safetensors" in stopped.err
    kept = files(Path("runs"))
    assert {name: kept[name] for name in before if "log.txt" not in name} == {
        name: content for name, content in before.items() if "log.txt" not in name
    }
    assert tractbench(*TRACT, "--json").json["reused"]
    again = tractbench(*TRACT, "--force", "--json")
    assert "resuming at step 40" in again.err
    assert again.json["metrics"] == first["metrics"]


def _stop_after(step):
    """Press Ctrl-C while the run is at a step."""

    original = Distillation.measure

    def measure(self, error):
        original(self, error)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return measure


def test_scores_do_not_depend_on_the_number_of_threads(forked):
    scores = []
    for threads in ("1", "2"):
        run = forked(*TRACT, "--json", "--quiet", "--budget", "1K", "--runs", threads, OMP_NUM_THREADS=threads)
        assert run.wait() == 0, run.err
        scores.append(json.loads(run.out)["metrics"])
    assert scores[0] == scores[1]
