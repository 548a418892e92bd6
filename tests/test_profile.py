"""What a profile says, and that its numbers belong together."""

import json

import pytest

from tractbench.pipeline import profile as profiling
from tractbench.pipeline.timing import interleaved, matrix_peak, median_ratio

SMALL = ("--set", "chunk=16", "--samples", 32)


@pytest.fixture(autouse=True)
def _short(monkeypatch, tmp_path):
    monkeypatch.setattr(profiling, "TRAINING", 0.1)
    monkeypatch.setattr(profiling, "SAMPLING", 0.1)
    monkeypatch.setattr(profiling, "BATCH", 1)
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


def test_the_parts_of_a_step_add_up(tractbench, tmp_path):
    trace = tmp_path / "trace.json"
    done = tractbench(
        "profile", "--method", "tract", "--dataset", "digits", "--batch", 16, *SMALL, "--json", "--trace", trace
    )
    assert done.code == 0, done.err
    train, sample = done.json["train"], done.json["sample"]
    assert {"draw", "copy", "targets", "gradients", "optimiser", "averages", "logging", "communication",
            "other"} == set(train["parts"])  # fmt: skip
    assert sum(train["parts"].values()) == pytest.approx(train["step_seconds"] - train["floor_seconds"])
    assert train["images_per_s"] == pytest.approx(16 / train["step_seconds"])
    forward, backward = 540_672, 1_056_768
    peak = done.json["device"]["peak_flops"]
    operations = 16 * (3 * forward + backward)
    assert train["flops_share"] == pytest.approx(operations / train["step_seconds"] / peak)
    assert sample["images_per_s"] == pytest.approx(16 / sample["seconds_per_evaluation"])  # in one evaluation
    assert sample["flops_share"] == pytest.approx(sample["images_per_s"] * forward / peak)
    assert done.json["score"]["flops_share"] is None
    assert done.json["memory"]["state"] == 36 * 272_832
    assert "272,832 parameters" in done.json["network"]
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert "aten::addmm" in names
    assert not (tmp_path / "runs").exists()


def test_a_data_set_and_a_teacher_that_are_not_here_are_profiled(tractbench):
    done = tractbench(
        "profile", "--method", "tract", "--dataset", "cifar10", "--tier", "smoke", "--batch", 1, "--set", "chunk=1"
    )
    assert done.code == 0, done.err
    assert "random weights" in done.out
    assert "Inception features" in done.out
    assert "network passes" in done.out


def test_what_trains_nothing_has_no_step(tractbench):
    arguments = ("--method", "ddim", "--dataset", "digits", "--nfe", 4, *SMALL, "--network", "mlp-third", "--json")
    done = tractbench("profile", *arguments)
    assert done.json["train"] is None
    assert done.json["sample"]["seconds_per_evaluation"] == pytest.approx(16 / 4 / done.json["sample"]["images_per_s"])


def test_an_unknown_network_and_an_impossible_file_are_refused(tractbench, tmp_path):
    base = ("profile", "--method", "ddim", "--dataset", "digits", *SMALL)
    assert "did you mean 'mlp'" in tractbench(*base, "--network", "mlpp").err
    assert tractbench(*base, "--trace", tmp_path / "no" / "trace.json").code == 2


def test_works_are_timed_in_turn():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = interleaved(works, "cpu", limit=0, least=0)
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3}
    assert calls == ["a", "a", "b", "b", *"ababab"]  # a first call and a timed one each, then rounds
    assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0


def test_a_matrix_product_has_a_speed():
    assert matrix_peak("cpu", "fp32", limit=0.01) > 1e7
