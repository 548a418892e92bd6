"""Stores of made-up runs for the tests of the report."""

import os
import shutil

import pytest

from tractbench.config.identity import SCORING_VERSION, TRAINING_VERSION
from tractbench.config.resolve import resolve
from tractbench.results.record import DistillationError, Metric, Record, RecordedConfig, Training

ENVIRONMENT = {
    "packages": {"tractbench": "0", "torch": "0"},
    "python": "3",
    "processor": "p",
    "threads": 1,
    "device": "cpu",
}


def record(cell, number, seed, scores, **changes):
    """A run of a cell with these scores over its sampling seeds."""
    given = {"seed": seed} if resolve(cell.settings)[0].schedule else {}
    config, _, _ = resolve({**cell.settings, **given, "sampling_seeds": tuple(range(len(scores)))})
    values = {
        "identity": f"{number:08x}" + "0" * 56,
        "student": f"{number:064x}",
        "training_version": TRAINING_VERSION,
        "scoring_version": SCORING_VERSION,
        "status": "done",
        "created": "2026-01-01T00:00:00+00:00",
        "config": config,
        "metrics": {cell.metric: Metric.of(scores)},
        "distillation_errors": tuple(
            DistillationError(phase=index + 1, start=start, end=end, error=(index + 1) * scores[0])
            for index, (start, end) in enumerate(zip(config.schedule, config.schedule[1:], strict=False))
        ),
        "nfe_spent": config.nfe,
        "parameters": 59_000_000,
        "training": Training(images=config.budget, seconds=7200.0),
        "hashes": {"teacher": f"t-{config.process}", "data": "d", "reference": "r", "student": "s"},
        "environment": ENVIRONMENT,
        "command": f"tractbench run --number {number}",
        "folder": f"cells/run-{number}",
    }
    values |= changes
    return Record.model_validate(values | {"config": RecordedConfig.of(values["config"])})


def fill(store, table, scores):
    """Record runs of a table's cells: scores by ``row/nfe``, then training seed, then sampling seed."""
    number = len(store.records())
    for ref, by_seed in scores.items():
        for seed, by_sampling in enumerate(by_seed):
            store.write(record(table.cells[ref], number, seed, by_sampling))
            number += 1


def needs(*programs):
    """Skip a test that needs a program which is not here; where all tests are asked for, let it fail instead."""
    missing = [program for program in programs if not shutil.which(program)]
    if missing and not os.environ.get("TRACTBENCH_ALL_TESTS"):
        pytest.skip(f"needs {' and '.join(missing)}")
