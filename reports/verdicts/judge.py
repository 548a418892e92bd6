"""Judging all figures and claims of the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence, gather
from tractbench.reports.verdicts.claims import judge_claims
from tractbench.reports.verdicts.figures import judge_figure
from tractbench.reports.verdicts.registered import with_plans
from tractbench.reports.verdicts.verdict import Verdict
from tractbench.results.plans import Registered
from tractbench.results.record import Record


def verdicts(records: Sequence[Record], tables: Mapping[str, Table], plans: Sequence[Registered] = ()) -> list[Verdict]:
    """Judge every published figure and claim of all tables, in their order.

    Args:
        records: one for each identity, oldest first (:meth:`tractbench.results.store.Store.records`).
        tables: all of them, whichever are shown: a claim is corrected for all claims of its tier.
        plans: registered ones of the store, oldest first.

    Raises:
        ConfigError: no run can have a cell's settings.
    """
    evidence = gather(records, tables)
    return with_plans(judge(tables, evidence), tables, evidence, records, plans)


def judge(tables: Mapping[str, Table], evidence: Mapping[str, Evidence]) -> list[Verdict]:
    """Judge figures and claims by what was gathered for each cell's id."""
    claims = judge_claims(tables, evidence)
    result = []
    for table in tables.values():
        cells = table.cells.values()
        result += [judge_figure(table, cell, cell.published, evidence[cell.id]) for cell in cells if cell.published]
        result += [claims[f"{table.name}/{claim.id}"] for claim in table.claims]
    return result
