"""Verdicts on published figures."""

from __future__ import annotations

from tractbench.claims.published import Published
from tractbench.claims.rows import Cell
from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.plans import figure_seeds
from tractbench.reports.verdicts.verdict import Ruling, Verdict
from tractbench.results.statistics import ALPHA, difference, equivalent


def judge_figure(table: Table, cell: Cell, published: Published, evidence: Evidence) -> Verdict:
    """Judge a published figure by the equivalence rule."""
    values = list(evidence.quoted.values())
    n, margin = len(values), cell.margin or 0.0
    verdict = Verdict(
        id=cell.id,
        kind="cell",
        table=table.name,
        tier=table.tier,
        protocol=table.protocol,
        metric=table.metric,
        text=f"{cell.row.label}, {cell.nfe} NFE",
        verdict="not run",
        n=n,
        published=published.value,
        published_error=cell.error,
        margin=margin,
        notes=evidence.notes,
    )
    mean = evidence.mean
    if mean is None:
        ruling: Ruling = "inconclusive" if evidence.failed else "budget differs" if evidence.budgets else "not run"
        return verdict.model_copy(update={"verdict": ruling, "notes": (evidence.missing, *evidence.notes)})
    own, found = difference(values), difference(values, published.value, cell.error)
    p_values = equivalent(found, margin)
    changes: dict[str, object] = {
        "verdict": p_values.decide(),
        "estimate": mean,
        "difference": mean - published.value,
    }
    if own and found:
        low, high = own.interval()
        changes |= {
            "interval": (low, high),
            "p": p_values.holds,
            "p_against": p_values.fails,
            "difference_90": found.interval(1 - 2 * ALPHA),
            "difference_95": found.interval(),
        }
    if published.budget != "same":
        reason = f"the published figure's budget is {'another' if published.budget == 'other' else 'not known'}"
        changes |= {"verdict": "budget differs", "p": None, "p_against": None, "notes": (reason, *evidence.notes)}
    elif evidence.failed:
        changes["verdict"] = "inconclusive"
    elif changes["verdict"] == "inconclusive":
        needed = figure_seeds(values, published.value, cell.error, margin, len(table.training_seeds))
        changes["further_seeds"] = None if needed is None else max(1, needed - n)
    return verdict.model_copy(update=changes)
