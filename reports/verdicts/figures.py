"""Verdicts on published figures."""

from __future__ import annotations

import statistics

from tractbench.claims.published import Published
from tractbench.claims.rows import Cell
from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.looks import at_look
from tractbench.reports.verdicts.observed import observed, seeds_each
from tractbench.reports.verdicts.plans import figure_seeds
from tractbench.reports.verdicts.verdict import Ruling, Verdict
from tractbench.results.sequential import looked
from tractbench.results.statistics import ALPHA, Tested, difference, equivalent


def judge_figure(table: Table, cell: Cell, published: Published, evidence: Evidence) -> Verdict:
    """Judge a published figure by the equivalence rule, a minimum by ours over as many runs."""
    n, margin = len(evidence.quoted), cell.margin or 0.0
    nearest = table.nearest(cell)
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
        wide=nearest.said(margin) if nearest else "",
        looks=at_look(table.looks, n, "not run"),
        notes=evidence.notes,
    )
    if evidence.mean is None:
        ruling: Ruling = "inconclusive" if evidence.failed else "budget differs" if evidence.budgets else "not run"
        return verdict.model_copy(update={"verdict": ruling, "notes": (evidence.missing, *evidence.notes)})
    values, hindrance = observed(published, evidence)
    if hindrance:
        notes = (hindrance, *evidence.notes)
        return verdict.model_copy(update={"verdict": "inconclusive", "mean": evidence.mean, "notes": notes})
    own, found = difference(values), difference(values, published.value, cell.error)
    tested: Tested | None = found
    if table.looks:
        seen = [
            difference(observed(published, evidence, at)[0], published.value, cell.error)
            for at in table.looks
            if at <= n
        ]
        tested = looked(seen, table.looks) if seen else None
    p_values = equivalent(tested, margin)
    estimate = statistics.fmean(values)
    changes: dict[str, object] = {
        "verdict": p_values.decide(),
        "estimate": estimate,
        "mean": evidence.mean if published.aggregation == "minimum" else None,
        "difference": estimate - published.value,
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
    looks = at_look(table.looks, n, str(changes["verdict"]))
    if changes["verdict"] == "inconclusive" and not evidence.failed:
        if looks:
            changes["further_seeds"] = looks.further(n)
        else:
            needed = figure_seeds(values, published.value, cell.error, margin, len(table.training_seeds))
            changes["further_seeds"] = None if needed is None else max(1, needed * seeds_each(published) - n)
    return verdict.model_copy(update=changes | {"looks": looks})
