"""Which verdicts rest on plans that were registered before the first of their runs was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tractbench.claims.rules import claim_rule, figure_rule
from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.verdict import DECIDABLE, Planned, Verdict
from tractbench.results.plans import Registered
from tractbench.results.record import Record


def with_plans(
    verdicts: Sequence[Verdict],
    tables: Mapping[str, Table],
    evidence: Mapping[str, Evidence],
    records: Sequence[Record],
    plans: Sequence[Registered],
) -> list[Verdict]:
    """Return verdicts with the oldest registered plan that each rests on.

    A verdict rests on a plan whose runs had none recorded when it was registered, that says of the verdict's rule what
    the table says, and at one of its looks: the runs behind the verdict are those of its first so many training seeds,
    no more and no fewer.

    Args:
        verdicts: of any tables.
        tables: all of them.
        evidence: by cell id.
        records: of the whole store.
        plans: of the store, oldest first.
    """
    times = {record.identity: record.created for record in records}
    honest = [plan for plan in plans if _first(plan, times) > plan.registered]
    found = []
    for verdict in verdicts:
        on = (plan for plan in honest if _rests(verdict, tables[verdict.table], evidence, plan))
        plan = next(on, None) if verdict.verdict in DECIDABLE else None
        planned = Planned(sha256=plan.sha256, registered=plan.registered) if plan else None
        found.append(verdict.model_copy(update={"plan": planned}))
    return found


def _first(plan: Registered, times: Mapping[str, str]) -> str:
    """Return when the first run that a plan names was recorded; "" if none was."""
    named = (run for cell in plan.plan.cells.values() for run in cell.runs.values())
    return min((times[run] for run in named if run in times), default="")


def _rests(verdict: Verdict, table: Table, evidence: Mapping[str, Evidence], registered: Registered) -> bool:
    plan, name = registered.plan, verdict.id.partition("/")[2]
    if (plan.table, plan.tier, plan.protocol, plan.metric) != (table.name, table.tier, table.protocol, table.metric):
        return False
    if verdict.kind == "cell":
        refs = {name}
        same = name in plan.cells and plan.cells[name].rule == figure_rule(table.cells[name], table.looks)
    else:
        claim = next(claim for claim in table.claims if claim.id == name)
        refs = {cell.ref for pairs in table.alternatives(claim) for pair in pairs for cell in pair}
        same = plan.claims.get(name) == claim_rule(claim, table.points(claim.axis), table.looks_of(claim))
    if not same or not refs <= plan.cells.keys():
        return False
    behind = [(plan.cells[ref].runs, evidence[f"{table.name}/{ref}"]) for ref in refs]
    return any(all(_made(runs, plan.seeds[:look], found) for runs, found in behind) for look in plan.looks)


def _made(runs: Mapping[int, str], seeds: Sequence[int], evidence: Evidence) -> bool:
    """Whether the runs behind a cell are those planned for these training seeds."""
    asked = {runs[seed] for seed in (seeds if evidence.trained else runs)}
    return asked == {record.identity for record in evidence.records}
