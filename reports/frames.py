"""From records to DataFrames: one row for each run, for each of its scores, or for runs that differ in seeds only."""

from __future__ import annotations

import hashlib
import math
import statistics
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pandas as pd

from tractbench.config.fields import RunConfig
from tractbench.config.numbers import format_budget
from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError, TractbenchError
from tractbench.io.canonical import canonical
from tractbench.results.measured import shipped_records
from tractbench.results.record import Record, RecordedConfig
from tractbench.results.statistics import spread
from tractbench.results.store import Store

APART = frozenset(
    {
        *("method", "dataset", "tier", "nfe", "seed", "sampling_seeds", "samples", "budget", "schedule"),
        *("protocol", "options"),
    }
)
"""Settings that have a column of their own."""


RUN_COLUMNS = {
    "origin": "yours, or shipped: measured with tractbench by its developers",
    "dataset": "name of the data set",
    "tier": "evidence tier",
    "protocol": "evaluation protocol",
    "method": "name of the method",
    "nfe": "network evaluations that the sampler may spend on an image",
    "nfe_spent": "network evaluations that an image took, counted",
    "schedule": "sampler steps before, between and after the phases, joined by commas; empty if nothing is trained",
    "budget": "training images over all phases",
    "settings": "settings other than the method's, data set's and tier's own, as name=value",
    "teacher": "teacher card",
    "seed": "training seed",
    "sampling_seeds": "number of sampling seeds",
    "samples": "images for each sampling seed",
    "parameters": "parameters of the sampled network",
    "distillation_error": "mean squared distance to the teacher in all its steps, after the last phase",
    "training_seconds": "wall time of training",
    "status": "done, failed or interrupted",
    "reason": "why it is not done, else empty",
    "training_version": "version of the code's training that made its student",
    "scoring_version": "version of the code's sampling and scoring that made its scores",
    "identity": "the run's hash",
    "folder": "the run's folder inside the store",
    "created": "when it was recorded, ISO 8601",
}
"""Columns of :func:`run_frame`; after them, for each metric, ``NAME`` (mean over sampling seeds) and ``NAME_std``."""

SCORE_COLUMNS = {
    **RUN_COLUMNS,
    "metric": "name of the score",
    "sampling_seed": "the sampling seed",
    "score": "the score of its samples",
}
"""Columns of :func:`score_frame`."""


def run_frame(records: Sequence[Record], shipped: Sequence[Record] = ()) -> pd.DataFrame:
    """Return one row for each record, shipped ones last: settings, spendings, each metric's mean and deviation."""
    rows = []
    for row, record in _rows(records, shipped):
        for name, metric in record.metrics.items():
            row[name], row[f"{name}_std"] = metric.mean, metric.std
        rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else list(RUN_COLUMNS))


def score_frame(records: Sequence[Record], shipped: Sequence[Record] = ()) -> pd.DataFrame:
    """Return one row for each metric and sampling seed of each record that is done, shipped ones last."""
    rows = []
    for row, record in _rows(records, shipped):
        for name, metric in record.metrics.items():
            for seed, score in zip(record.config.sampling_seeds, metric.per_seed, strict=True):
                rows.append(row | {"metric": name, "sampling_seed": seed, "score": score})
    return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def load_results(
    runs: str | Path = "runs", *, by: Literal["run", "score"] = "run", measured: bool = True
) -> pd.DataFrame:
    """Return the results in a folder, and the shipped ones; see :func:`tractbench.load_results`."""
    shipped = shipped_records() if measured else []
    store = Store(Path(runs), create=bool(shipped))
    records = store.records()
    if not store.exists:
        warnings.warn(f"no results in {runs}: all rows are results that come with tractbench", stacklevel=3)
    for line in store.damaged:
        warnings.warn(f"{line}; see 'tractbench store check'", stacklevel=3)
    if by not in ("run", "score"):
        raise ConfigError(f"by {by!r}: a row is a 'run' or a 'score'; give one of them")
    return run_frame(records, shipped) if by == "run" else score_frame(records, shipped)


def _rows(records: Sequence[Record], shipped: Sequence[Record]) -> list[tuple[dict[str, object], Record]]:
    own = [(_row(record), record) for record in records]
    return own + [(_row(record, "shipped"), record) for record in shipped]


def _row(record: Record, origin: Literal["yours", "shipped"] = "yours") -> dict[str, object]:
    """Return a record's :data:`RUN_COLUMNS`."""
    config = record.config
    values = (
        origin, config.dataset, config.tier, config.protocol, config.method, config.nfe, record.nfe_spent,
        ",".join(map(str, config.schedule)), config.budget, settings_text(config), config.teacher, config.seed,
        len(config.sampling_seeds), config.samples, record.parameters,
        record.distillation_errors[-1].error if record.distillation_errors else None,
        record.training.seconds, record.status, record.reason or "", record.training_version,
        record.scoring_version, record.identity,
        record.folder, record.created,
    )  # fmt: skip
    return dict(zip(RUN_COLUMNS, values, strict=True))


def settings_text(config: RunConfig | RecordedConfig) -> str:
    """Return what a run sets otherwise than its method, data set and tier do, as ``name=value`` pairs."""
    now = _settings(config)
    usual = _usual(config.method, config.dataset, config.tier, config.process) or dict.fromkeys(now)
    grid = "grid_steps" if config.schedule and usual.get("schedule") else None  # the grid follows the schedule
    return " ".join(
        f"{key}={now[key]}"
        for key in sorted(usual.keys() & now.keys() - APART)
        if key != grid and now[key] != usual[key]
    )


@lru_cache(maxsize=1024)
def _usual(method: str, dataset: str, tier: str, process: str) -> dict[str, object] | None:
    """Return the settings of a run that gives none; None for a plugin that is gone, so that its runs stay readable."""
    given = {"method": method, "dataset": dataset, "tier": tier}
    try:
        usual_process = resolve(given)[0].process
        return _settings(resolve(given | {"process": process})[0]) | {"process": usual_process}
    except TractbenchError:
        return None


def _settings(config: RunConfig | RecordedConfig) -> dict[str, object]:
    return config.model_dump() | config.options


def cell_key(record: Record) -> str:
    """Return a hash of all that two runs of one cell share: everything but their seeds.

    Runs of another teacher, data, reference statistics, plugin source or version of training or scoring are never in
    one cell.
    """
    config = record.config.model_dump(mode="json", exclude={"seed", "sampling_seeds"})
    hashes = {key: value for key, value in record.hashes.items() if key != "student"}
    versions = [record.training_version, record.scoring_version]
    return hashlib.sha256(canonical([config, hashes, versions]).encode()).hexdigest()


def cell_frame(records: Sequence[Record], metrics: Sequence[str]) -> pd.DataFrame:
    """Return one row for each cell: runs that differ in nothing but their seeds, taken together.

    The unit is the training seed: the scores of its sampling seeds, each counted once, are averaged first. ``NAME`` is
    the mean over training seeds, ``NAME_sampling_std`` the root mean square of their standard deviations over sampling
    seeds, ``NAME_training_std`` the standard deviation of their means (NaN for one). A cell whose runs all failed has
    NaN and its reason.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(cell_key(record), []).append(record)
    rows = [_cell(group, metrics) for group in groups.values()]
    order = ["dataset", "tier", "nfe_spent", "method", "budget", "settings"]
    return pd.DataFrame(rows).sort_values(order, kind="stable", ignore_index=True)


def _cell(group: list[Record], metrics: Sequence[str]) -> dict[str, object]:
    done = [record for record in group if record.status == "done"]
    row = _row((done or group)[-1])
    seeds = {(r.config.seed, s) for r in done for s in r.config.sampling_seeds}
    training_seeds = {seed for seed, _ in seeds}
    errors = {r.config.seed: r.distillation_errors[-1].error for r in done if r.distillation_errors}
    row |= {
        "nfe_spent": row["nfe_spent"] or row["nfe"],
        "training_seeds": len(training_seeds),
        "sampling_seeds": len(seeds),
        "failed": len(group) - len(done),
        "distillation_error": statistics.fmean(errors.values()) if errors else math.nan,
        "reason": "" if done else group[-1].reason,
    }
    for name in metrics:
        scores: dict[int, dict[int, float]] = {}
        for record in done:
            if name in record.metrics:
                pairs = zip(record.config.sampling_seeds, record.metrics[name].per_seed, strict=True)
                scores.setdefault(record.config.seed, {}).update(pairs)
        found = spread(scores) if scores else None
        row[name] = found.mean if found else math.nan
        row[f"{name}_sampling_std"] = math.nan if found is None or found.sampling is None else found.sampling
        row[f"{name}_training_std"] = math.nan if found is None or found.training is None else found.training
    return row


def budget_text(images: object) -> str:
    """Write a number of training images, ``-`` for none."""
    return format_budget(int(str(images))) if images else "-"
