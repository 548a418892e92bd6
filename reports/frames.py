"""From records to DataFrames: one row for each run, and one for each cell of a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tractbench.config import RunConfig, format_budget, resolve
from tractbench.errors import TractbenchError
from tractbench.results.record import Record

APART = frozenset(
    {
        *("method", "dataset", "tier", "nfe", "seed", "sampling_seeds", "samples", "budget", "schedule"),
        *("protocol", "options"),
    }
)
"""Settings that have a column of their own."""

CELL = ["dataset", "tier", "protocol", "method", "nfe", "schedule", "budget", "settings", "teacher", "samples"]


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
        "identity": record.identity,
        "folder": record.folder,
        "created": record.created,
    }
    for name, metric in record.metrics.items():
        row[name], row[f"{name}_std"] = metric.mean, metric.std
    return row


def settings_text(config: RunConfig) -> str:
    """Return what a run sets otherwise than its method, data set and tier do, as ``name=value`` pairs."""
    given = {"method": config.method, "dataset": config.dataset, "tier": config.tier, "nfe": config.nfe}
    now = _settings(config)
    try:
        usual_process = resolve(given)[0].process
        usual = _settings(resolve(given | {"process": config.process})[0]) | {"process": usual_process}
    except TractbenchError:  # a plugin that is gone: its runs stay readable, with every option spelt out
        usual = dict.fromkeys(config.options)
    return " ".join(f"{key}={now[key]}" for key in sorted(usual) if key not in APART and now.get(key) != usual[key])


def _settings(config: RunConfig) -> dict[str, object]:
    return config.model_dump() | config.options


def cell_frame(runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return one row for each cell: runs that differ in nothing but their seeds, taken together.

    For each metric: ``NAME`` is the mean over training seeds, ``NAME_sampling_std`` the root mean square of the runs'
    spreads over sampling seeds, ``NAME_training_std`` the spread of the runs' means (NaN for one run). A cell whose
    runs all failed has NaN and its reason.
    """
    rows = []
    for key, group in runs.groupby(CELL, sort=False, dropna=False):
        done = group[group["status"] == "done"]
        row: dict[str, object] = dict(zip(CELL, key, strict=True))
        row["training_seeds"] = done["seed"].nunique()
        row["sampling_seeds"] = int(done["sampling_seeds"].sum())
        row["nfe_spent"] = done["nfe_spent"].max() if len(done) else None
        row["parameters"] = done["parameters"].max() if len(done) else None
        row["distillation_error"] = done["distillation_error"].astype(float).mean()
        row["training_seconds"] = done["training_seconds"].sum()
        row["reason"] = "" if len(done) else str(group["reason"].iloc[-1])
        row["folder"] = (done if len(done) else group)["folder"].iloc[-1]
        for name in metrics:
            values = done[name] if name in done else pd.Series(dtype=float)
            spreads = done[f"{name}_std"].dropna() if f"{name}_std" in done else pd.Series(dtype=float)
            row[name] = values.mean()
            row[f"{name}_sampling_std"] = (spreads.astype(float) ** 2).mean() ** 0.5
            row[f"{name}_training_std"] = values.std(ddof=1)
        rows.append(row)
    cells = pd.DataFrame(rows)
    return cells.sort_values(
        ["dataset", "tier", "nfe", "method", "budget", "settings"], kind="stable", ignore_index=True
    )


def budget_text(images: object) -> str:
    """Write a number of training images, ``-`` for none."""
    return format_budget(int(str(images))) if images else "-"
