"""Runs killed by SIGKILL at their file operations, or at any time, end with the same numbers and files when repeated.

A few points are tried always, every one (an hour) and random times where ``TRACTBENCH_ALL_TESTS`` is set.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_runs.py")
SMALL = ("--dataset", "digits", "--tier", "smoke", "--nfe", "1", "--budget", "2K", "--samples", "64",
         "--sampling-seeds", "0", "--checkpoint-every", "0.000001s", "--quiet")  # fmt: skip
RUNS = {
    "tract": ("run", "--method", "tract", "--schedule", "8,2,1", *SMALL),
    "btd": ("run", "--method", "btd", "--schedule", "4,2,1", *SMALL),
}
ALL = bool(os.environ.get("TRACTBENCH_ALL_TESTS"))
SAMPLED = 4


def killed(folder, points, words):
    folder.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, points), "--", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def same(found, whole):
    assert found["again"] == 0, (found["point"], found["said"])
    assert "Traceback" not in found["said"]
    for key in ("status", "metrics", "student", "pictures", "files"):
        assert found[key] == whole[key], (found["point"], key)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("method", RUNS if ALL else ["tract"])
def test_a_kill_at_any_file_operation_changes_nothing(tmp_path, method):
    (whole,) = killed(tmp_path / "whole", [0], RUNS[method])
    assert (whole["first"], whole["status"]) == (0, ["done"]), whole["said"]
    assert not [name for name in whole["files"] if name.endswith(".tmp")]
    count = whole["operations"]
    assert count > 20
    # always the same ones, from the first to the last, where the record is written and indexed
    points = range(1, count + 1) if ALL else [1 + index * (count - 1) // (SAMPLED - 1) for index in range(SAMPLED)]
    for found in killed(tmp_path / "killed", points, RUNS[method]):
        assert found["first"] == -9, found["point"]
        same(found, whole)


@pytest.mark.skipif(not ALL, reason="many runs; set TRACTBENCH_ALL_TESTS")
@pytest.mark.parametrize("method", RUNS)
def test_a_kill_at_any_time_changes_nothing(tmp_path, method):
    (whole,) = killed(tmp_path / "whole", [0], RUNS[method])
    times = [f"{random.Random(index).uniform(0, 4):.3f}s" for index in range(24)]
    for found in killed(tmp_path / "killed", times, RUNS[method]):
        same(found, whole)
