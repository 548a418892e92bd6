"""From tables to a DataFrame: one row for each cell, run or not."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import pandas as pd

from tractbench.claims.rows import Cell, CellData, Row
from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.reports.findings import Found, says
from tractbench.reports.verdicts.verdict import Verdict

CELL_COLUMNS = {
    "id": "table/row/nfe",
    "label": "the row's label",
    "nfe": "network evaluations of an image",
    "runs": "whose: yours, or shipped with tractbench; empty if there are none",
    "tier": "evidence tier",
    "protocol": "evaluation protocol",
    "metric": "name of the score",
    "published": "the published figure",
    "published_std": "its standard deviation, as printed or assumed",
    "published_aggregation": "mean, minimum or unknown",
    "published_budget": "whether it was made at the cell's budget: same, other or unknown",
    "published_source": "where it is published",
    "published_note": "what its sources say otherwise",
    "published_others": "independent reproductions and what others print, joined by semicolons",
    "discriminator": "whether the published method trains one; empty if not known",
    "lpips": "whether it trains with that perceptual distance; empty if not known",
    "backbone": "the published method's network",
    "pixels": "how its images were made",
    "other_data": "other data than the table's",
    "not_run_here": "why it cannot be run here",
    "mean": "our mean over training seeds",
    "training_std": "standard deviation over training seeds",
    "sampling_std": "root mean square over training seeds of the standard deviation over sampling seeds",
    "n": "training seeds",
    "on_your_machine": "whether yours reproduce the shipped ones: yes, no, undecided, other files; empty without both",
    "ratio_to_shipped": "geometric mean of your scores over that of the shipped ones",
    "difference": "our mean minus the published figure",
    "difference_low": "lower end of its 95% interval",
    "difference_high": "upper end of its 95% interval",
    "margin": "how far from the published figure a reproduction may be",
    "verdict": "reproduced, contradicted, inconclusive, not run or budget differs; empty without a published figure",
    "further_seeds": "training seeds that would decide an inconclusive verdict",
    "budget": "training images over all phases",
    "parameters": "parameters of the network that was run",
    "published_parameters": "published number of parameters",
    "training_hours": "mean wall time of training, in hours on one device",
    "device": "what the runs were made on",
}
"""Columns of :func:`table_frame`."""


def table_frame(tables: Mapping[str, Table], found: Found) -> pd.DataFrame:
    """Return one row for each cell of the tables and source of runs: the published figure, ours, and the verdict."""
    rows = []
    for table in tables.values():
        for row in table.rows:
            for data in row.cells:
                cited = _cited_row(table, row, data)
                cell = table.cells.get(f"{row.id}/{data.nfe}")
                if cell is None:
                    rows.append(cited)
                    continue
                for source, one in found.sources(cell.id):
                    own = _cell_row(cell, one.evidence[cell.id], one.verdicts.get(cell.id))
                    repeat = found.repeats.get(cell.id) if source == "yours" else None
                    answer = {"on_your_machine": repeat.answer, "ratio_to_shipped": repeat.ratio} if repeat else {}
                    rows.append(cited | own | {"runs": source if says(one, cell.id) else ""} | answer)
    return pd.DataFrame(rows, columns=list(CELL_COLUMNS))


def _cited_row(table: Table, row: Row, data: CellData) -> dict[str, object]:
    """Return what a table says of a cell, run or not, as :data:`CELL_COLUMNS`."""
    published = data.published
    others = published.others if published else ()
    said: dict[str, object] = {
        "id": f"{table.name}/{row.id}/{data.nfe}",
        "label": row.label,
        "nfe": data.nfe,
        "tier": table.tier,
        "protocol": table.protocol,
        "metric": table.metric,
        "published_others": "; ".join(f"{o.value:g} ({o.kind}, {table.sources[o.source]})" for o in others),
        "discriminator": row.discriminator,
        "lpips": row.lpips,
        "backbone": row.backbone,
        "pixels": row.pixels,
        "other_data": row.data,
        "not_run_here": row.cannot,
        "published_parameters": row.parameters * 1e6 if row.parameters else None,
        "runs": "",
        "n": 0,
        "on_your_machine": "",
        "verdict": "",
        "device": "",
    }
    if published:
        said |= {
            "published": published.value,
            "published_std": published.error,
            "published_aggregation": published.aggregation,
            "published_budget": published.budget,
            "published_source": table.sources[published.source],
            "published_note": published.note,
        }
    else:
        keys = ("aggregation", "budget", "source", "note")
        said |= {f"published_{key}": "" for key in keys}
    return {name: said.get(name) for name in CELL_COLUMNS}


def _cell_row(cell: Cell, found: Evidence, verdict: Verdict | None) -> dict[str, object]:
    """Return what the runs say of a cell, of :data:`CELL_COLUMNS`."""
    spread, published = found.spread, cell.published
    low, high = (verdict.difference_95 if verdict else None) or (None, None)
    hours = [record.training.seconds / 3600 for record in found.records]
    return {
        "published_std": cell.error if published else None,
        "mean": found.mean,
        "training_std": found.training_std,
        "sampling_std": spread.sampling if spread else None,
        "n": len(found.quoted),
        "difference": verdict.difference if verdict else None,
        "difference_low": low,
        "difference_high": high,
        "margin": cell.margin if published else None,
        "verdict": verdict.verdict if verdict else "",
        "further_seeds": verdict.further_seeds if verdict else None,
        "budget": cell.config.budget,
        "parameters": found.records[-1].parameters if found.records else None,
        "training_hours": statistics.fmean(hours) if hours else None,
        "device": "; ".join(sorted({str(record.environment.get("device", "cpu")) for record in found.records})),
    }
