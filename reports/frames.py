"""From records to DataFrames: one row for each run, and one for each cell of a table."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence

import pandas as pd

from tractbench.config import RunConfig, canonical, format_budget, resolve
from tractbench.errors import TractbenchError
from tractbench.results.record import Record

APART = frozenset(
    {
        *("method", "dataset", "tier", "nfe", "seed", "sampling_seeds", "samples", "budget", "schedule"),
        *("protocol", "options"),
    }
)
"""Settings that have a column of their own."""


def run_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return one row for each record: settings, spendings, and each metric's mean and std (``NAME``, ``NAME_std``)."""
    return pd.DataFrame([_row(record) for record in records])


def _row(record: Record) -> dict[str, object]:
    config = record.config
    row: dict[str, object] = {
        "dataset": config.dataset,
        "tier": config.tier,
        "protocol": config.protocol,
        "method": config.method,
        "nfe": config.nfe,
        "nfe_spent": record.nfe_spent,
        "schedule": ",".join(map(str, config.schedule)),
        "budget": config.budget,
        "settings": settings_text(config),
        "teacher": config.teacher,
        "seed": config.seed,
        "sampling_seeds": len(config.sampling_seeds),
        "samples": config.samples,
        "parameters": record.parameters,
        "distillation_error": record.distillation_errors[-1].error if record.distillation_errors else None,
        "training_seconds": record.seconds.training,
        "status": record.status,
        "reason": record.reason or "",
        "results_version": record.results_version,
        "identity": record.identity,
        "folder": record.folder,
        "created": record.created,
    }
    for name, metric in record.metrics.items():
        row[name], row[f"{name}_std"] = metric.mean, metric.std
    return row


def settings_text(config: RunConfig) -> str:
    """Return what a run sets otherwise than its method, data set and tier do, as ``name=value`` pairs."""
    given = {"method": config.method, "dataset": config.dataset, "tier": config.tier}
    now = _settings(config)
    try:
        usual_process = resolve(given)[0].process
        usual = _settings(resolve(given | {"process": config.process})[0]) | {"process": usual_process}
    except TractbenchError:  # a plugin that is gone: its runs stay readable, with every setting spelt out
        usual = dict.fromkeys(now)
    if config.schedule and usual.get("schedule"):  # the grid follows the schedule
        usual["grid_steps"] = now["grid_steps"]
    return " ".join(f"{key}={now[key]}" for key in sorted(usual) if key not in APART and now.get(key) != usual[key])


def _settings(config: RunConfig) -> dict[str, object]:
    return config.model_dump() | config.options


def cell_key(record: Record) -> str:
    """Return a hash of all that two runs of one cell share: everything but their seeds.

    Runs of another teacher, data, reference statistics, plugin source or results version are never in one cell.
    """
    config = record.config.model_dump(mode="json", exclude={"seed", "sampling_seeds"})
    hashes = {key: value for key, value in record.hashes.items() if key != "student"}
    return hashlib.sha256(canonical([config, hashes, record.results_version]).encode()).hexdigest()


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
        "distillation_error": statistics.fmean(errors.values()) if errors else math.nan,
        "reason": "" if done else group[-1].reason,
    }
    for name in metrics:
        scores: dict[int, dict[int, float]] = {}
        for record in done:
            if name in record.metrics:
                pairs = zip(record.config.sampling_seeds, record.metrics[name].per_seed, strict=True)
                scores.setdefault(record.config.seed, {}).update(pairs)
        per_seed = [list(values.values()) for values in scores.values()]
        means = [statistics.fmean(values) for values in per_seed]
        variances = [statistics.variance(values) for values in per_seed if len(values) > 1]
        row[name] = statistics.fmean(means) if means else math.nan
        row[f"{name}_sampling_std"] = statistics.fmean(variances) ** 0.5 if variances else math.nan
        row[f"{name}_training_std"] = statistics.stdev(means) if len(means) > 1 else math.nan
    return row


def budget_text(images: object) -> str:
    """Write a number of training images, ``-`` for none."""
    return format_budget(int(str(images))) if images else "-"
