"""Small tables, stores and engines for the tests of suites."""

from pathlib import Path

from tractbench.claims.loading import load_tables
from tractbench.errors import RunFailedError
from tractbench.pipeline import run as running
from tractbench.pipeline.cell import identify
from tractbench.pipeline.suite import Options, Suite
from tractbench.pipeline.suite_cells import Choice, wanted_cells
from tractbench.pipeline.suite_job import work
from tractbench.results.record import Metric, Record, RecordedConfig, Seconds, Training

TINY = """
title = "Tiny"
dataset = "digits"
tier = "smoke"
protocol = "raw"
metric = "fd_pixel"
training_seeds = "0-1"
settings = { samples = 20, sampling_seeds = "0", chunk = 10 }
[sources]
us = "made up"
[[row]]
id = "ddim"
label = "DDIM"
settings = { method = "ddim" }
cell = [{ nfe = 1 }, { nfe = 2 }]
[[row]]
id = "tract"
label = "TRACT"
settings = { method = "tract", budget = "1K" }
cell = [{ nfe = 1 }, { nfe = 2 }]
[[row]]
id = "edm"
label = "TRACT-EDM"
settings = { method = "tract_edm", budget = "1K" }
cell = [{ nfe = 1 }]
[[row]]
id = "again"
label = "The same run in another row"
settings = { method = "tract", budget = "1K" }
cell = [{ nfe = 1 }]
[[claim]]
id = "two-steps"
text = "Two steps are better than one."
test = "lower"
left = "tract/2"
right = "tract/1"
source = "us"
"""


def tiny_folder(text=TINY):
    """A folder of the one table."""
    Path("tables").mkdir(exist_ok=True)
    Path("tables/tiny.toml").write_text(text)
    return Path("tables")


def choice(text=TINY, **more):
    return Choice((load_tables(tiny_folder(text))["tiny"],), **more)


def record(cell, store, **changes):
    """A made-up record of a run that is done."""
    config = cell.config
    values = {
        "identity": cell.id,
        "student": cell.student,
        "training_version": 3,
        "scoring_version": 3,
        "status": "done",
        "created": "2026-01-01T00:00:00+00:00",
        "config": RecordedConfig.of(config),
        "metrics": {"fd_pixel": Metric.of([3.0 / config.nfe + 0.01 * config.seed**2 * config.nfe])},
        "training": Training(images=config.budget, seconds=config.budget / 1000),
        "seconds": Seconds(training=config.budget / 1000, sampling_and_scoring=config.samples / 10),
        "hashes": {"teacher": cell.teacher_hash, "data": "d", "reference": "r", "student": "s"},
        "folder": store.cell_folder(config, cell.id).relative_to(store.root).as_posix(),
    }
    return Record.model_validate(values | changes)


def pretend(monkeypatch, happens=lambda cell, store, runtime: None):
    """Let runs be recorded at once instead of made; ``happens`` may do something before, such as fail."""
    made = []

    def run(config, method, dataset, store, progress, runtime):
        cell = identify(config, method, dataset)
        with store.lock_cell(store.cell_folder(config, cell.id)):
            try:
                happens(cell, store, runtime)
            except RunFailedError as error:
                store.write(record(cell, store, status="failed", reason=str(error), metrics={}))
                raise
            with progress.task("sampling and scoring", 1, "image") as task:
                task.advance()
            store.write(record(cell, store))
            made.append(cell.id)

    monkeypatch.setattr(running, "run", run)
    return made


class Ended:
    """A job that has ended already."""

    name = "here"

    def done(self):
        return True

    def stop(self):
        raise AssertionError("there is nothing to stop")

    def log(self):
        return "Killed"


class Here:
    """An engine that makes every job in this process before it returns; ``dies`` says which end without a word."""

    name, poll_seconds, alone = "here", 0.0, True

    def __init__(self, dies=lambda batch: False):
        self.batches, self._dies = [], dies

    def submit(self, batches):
        self.batches += batches
        for batch in batches:
            if not self._dies(batch):
                work(batch, lambda: False)
        return [Ended() for _ in batches]


def made(store, asked, engine=None, stop=lambda: False, watch=lambda suite: None, **options):
    """Make a suite, and return it."""
    with store.lock_suite(f"suite-{len(list(store.root.glob('suite/*')))}") as folder:
        suite = Suite(wanted_cells(asked)[0], store, folder, Options(**{"device": "cpu"} | options))
        suite.make(engine or Here(), stop, watch)
        return suite
