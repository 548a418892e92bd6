import subprocess
import sys
from pathlib import Path

import pytest

RUN = ("run", "--method", "tract", "--dataset", "digits", "--tier", "smoke")

BAD = [
    (("run", "--method", "trct", "--dataset", "digits"), "did you mean 'tract'"),
    (("run", "--method", "tract", "--dataset", "digit"), "did you mean 'digits'"),
    (("run", "--dataset", "digits"), "add --method"),
    (("run", "--method", "tract", "--dataset", "digits", "--tier", "smal"), "did you mean 'small'"),
    ((*RUN, "--set", "loss_weight=unifrom"), "did you mean 'uniform'"),
    ((*RUN, "--set", "clip_targt=true"), "did you mean 'clip_target'"),
    ((*RUN, "--set", "clip_target"), "give KEY=VALUE"),
    ((*RUN, "--schedule", "1024,30,1"), "30 does not divide 1024; try 1024,32,1"),
    ((*RUN, "--schedule", "1024,x"), "whole numbers separated by commas"),
    ((*RUN, "--schedule", "1024,32,1", "--nfe", "2"), "nfe is 2"),
    ((*RUN, "--nfe", "3"), "no schedule of tract from 1024 steps ends there; try 4"),
    ((*RUN, "--nfe", "0"), "greater than or equal to 1"),
    (("run", "--method", "ddim", "--dataset", "digits", "--nfe", "3"), "do not divide the grid of 1024; try 4"),
    ((*RUN, "--budget", "0"), "give at least 256"),
    ((*RUN, "--budget", "512X"), "try 512K"),
    ((*RUN, "--budget", "99999999M"), "less than or equal to"),
    ((*RUN, "--lr", "fast"), "--lr"),
    ((*RUN, "--lr", "nan"), "lr"),
    ((*RUN, "--mu-s", "1"), "less than 1"),
    ((*RUN, "--sampling-seeds", "1,1"), "none twice"),
    ((*RUN, "--process", "vpp"), "did you mean 'vp'"),
    ((*RUN, "--teacher", "digits-vq"), "did you mean 'digits-vp'"),
    ((*RUN, "--teacher", "missing.toml"), "cannot read card"),
    ((*RUN, "--config", "missing.toml"), "cannot read config file"),
    ((*RUN, "--device", "cdua"), "did you mean 'cuda'"),
    ((*RUN, "--buget", "1"), "--budget"),
    (("reprot",), "report"),
    (("report",), "no results in runs"),
    (("list", "method"), "did you mean 'methods'"),
    (("teacher", "train", "--dataset", "digits", "--process", "vq"), "did you mean 'vp'"),
]


@pytest.mark.parametrize(("arguments", "remedy"), BAD, ids=[" ".join(a)[-40:] for a, _ in BAD])
def test_a_mistake_is_one_line_with_the_remedy_and_writes_nothing(tractbench, arguments, remedy):
    result = tractbench(*arguments, *(("--quiet",) if arguments[0] == "run" else ()))
    assert result.code == 2
    assert result.out == ""
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("tractbench: ")
    assert remedy in result.err
    assert not list(Path("runs").glob("*/*"))


def test_a_format_has_a_nearest_name(tractbench):
    tractbench("run", "--method", "ddim", "--dataset", "digits", "--tier", "smoke", "--set", "grid_steps=16")
    assert "did you mean 'html'" in tractbench("report", "--format", "htm").err
    assert "did you mean 'smoke'" in tractbench("report", "--tier", "smok").err


def test_help_teaches(tractbench):
    for arguments in (("--help",), ("run", "--help"), ("report", "-h")):
        result = tractbench(*arguments)
        assert result.code == 0
        assert "tractbench" in result.out
    assert "tractbench run --method tract --dataset digits --nfe 1" in tractbench("--help").out.replace("\n", " ")


def test_listings(tractbench):
    methods = {m["name"]: m for m in tractbench("list", "methods", "--json").json}
    assert {"ddim", "tract"} <= set(methods)
    settings = tractbench("list", "methods", "--verbose", "--json").json
    tract = {row["setting"]: row["default"] for row in settings if row["method"] == "tract"}
    spec = {"clip_target": "True", "loss_weight": "truncated_snr", "phase_start": "continue", "ema_reset": "none"}
    spec |= {"clip_sample": "True", "mu_s": "0.5", "lr_schedule": "constant", "lr": "0.0002", "ema_residual": "0.001"}
    assert {key: tract[key] for key in spec} == spec
    assert all(row["description"] for row in settings)
    tiers = {row["name"]: row["tiers"] for row in tractbench("list", "datasets", "--json").json}
    assert (tiers["digits"][0], tiers["imagenet64"][0]) == ("small", "paper")
    tractbench("run", "--method", "ddim", "--dataset", "digits", "--tier", "smoke", "--set", "grid_steps=16")
    assert len(tractbench("list", "runs", "--json").json) == 1
    assert "ddim" in tractbench("list", "runs").out


def test_results_folder_from_the_environment(tractbench, monkeypatch):
    monkeypatch.setenv("TRACTBENCH_HOME", "elsewhere")
    tractbench("run", "--method", "ddim", "--dataset", "digits", "--tier", "smoke", "--set", "grid_steps=16")
    assert Path("elsewhere/records.jsonl").exists()
    assert not Path("runs").exists()


def test_as_a_module_and_into_a_closed_pipe():
    module = [sys.executable, "-m", "tractbench"]
    assert subprocess.run([*module, "list", "methods"], capture_output=True, check=True).stdout
    process = subprocess.Popen([*module, "list", "methods", "-v"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in error
