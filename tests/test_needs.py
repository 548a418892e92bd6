"""Everything that a run lacks, in one answer."""

import shutil
from collections import namedtuple

import pytest

from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError
from tractbench.pipeline import needs
from tractbench.pipeline.needs import Need, check_needs, check_room, disk_needed, memory_needed
from tractbench.progress import Progress
from tractbench.teachers.card import SHIPPED

Usage = namedtuple("Usage", "total used free")
SMOKE = ("run", "--method", "ddim", "--dataset", "digits", "--tier", "smoke", "--samples", 8, "--sampling-seeds", "0",
         "--set", "grid_steps=16", "--quiet", "--json")  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def free(monkeypatch):
    """Sets the free bytes of disk and memory."""

    def given(disk=10**12, memory=10**12):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, disk))
        monkeypatch.setattr(needs, "free_memory", lambda device: memory)

    return given


@pytest.mark.parametrize(("dataset", "teacher"), [("cifar10", "google-cifar10"), ("imagenet64", "google-imagenet64")])
def test_everything_that_is_missing_is_named_at_once(tractbench, free, dataset, teacher):
    free(disk=1000, memory=1000)
    done = tractbench("run", "--method", "tract", "--dataset", dataset, "--nfe", 1, "--quiet")
    assert done.code == 2
    assert f"data {dataset}: " in done.err
    assert f"data prepare {dataset}" in done.err
    assert f"teacher download {teacher}" in done.err
    assert "Inception weights: fetched at the first evaluation" in done.err
    assert "memory: " in done.err
    assert "disk: " in done.err
    assert "--runs" in done.err
    assert "needs 5 things" in done.err


def test_what_is_enough_is_not_named(tractbench, free):
    free()
    done = tractbench("run", "--method", "tract", "--dataset", "cifar10", "--quiet")
    assert "needs 3 things" in done.err
    assert "memory" not in done.err


def test_weights_that_are_fetched_stop_nothing(monkeypatch, tmp_path):
    config, method, dataset = resolve({"method": "ddim", "dataset": "digits"})
    monkeypatch.setattr(needs, "files_needed", lambda *a: (Need(needs.INCEPTION, "fetched", "later"),))
    check_needs(config, method, dataset, tmp_path, "cpu")


def test_a_done_run_is_found_without_weights_and_room(tractbench, free, tmp_path):
    for name in ("digits-vp.toml", "digits-vp.safetensors"):
        shutil.copy(SHIPPED / name, tmp_path)
    first = tractbench(*SMOKE, "--teacher", tmp_path / "digits-vp.toml")
    assert first.code == 0, first.err
    (tmp_path / "digits-vp.safetensors").unlink()
    free(disk=0, memory=1)
    again = tractbench(*SMOKE, "--teacher", tmp_path / "digits-vp.toml")
    assert again.code == 0, again.err
    assert again.json["reused"]


class Said(Progress):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def test_room_that_is_short_for_certain_stops_and_else_warns(free, tmp_path):
    config, method, dataset = resolve({"method": "tract", "dataset": "digits"})
    parameters, said = 272_832, Said()
    assert needs.largest_network(config, method, dataset) == parameters
    free(disk=32 * parameters + 1)
    check_room(config, method, dataset, tmp_path, "cpu", said)
    assert [line.partition(":")[0] for line in said.lines] == ["disk may not be enough"]
    free(disk=32 * parameters)
    with pytest.raises(ConfigError, match="choose another disk with --runs"):
        check_room(config, method, dataset, tmp_path, "cpu", said)
    free(memory=36 * parameters - 1)
    with pytest.raises(ConfigError, match="of weights and optimiser"):
        check_room(config, method, dataset, tmp_path, "cpu", said)
    free(memory=36 * parameters)
    check_room(config, method, dataset, tmp_path, "cpu", said)
    assert len(said.lines) == 1


def test_what_trains_nothing_needs_its_weights_alone(tmp_path, free):
    config, method, _ = resolve({"method": "ddim", "dataset": "digits"})
    assert memory_needed(1000, method, 4000).present
    assert not memory_needed(1000, method, 3999).present
    free(disk=1)
    assert disk_needed(1000, config, tmp_path).state == "tight"
