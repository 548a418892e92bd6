"""Verdicts on claims, with Holm's correction over those of a tier."""

from __future__ import annotations

from collections.abc import Mapping

from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.claim_tests import ClaimTest, claim_test
from tractbench.reports.verdicts.looks import at_look
from tractbench.reports.verdicts.plans import claim_seeds
from tractbench.reports.verdicts.verdict import DECIDABLE, Verdict
from tractbench.results.statistics import ALPHA, NONE, PValues, holm


def judge_claims(tables: Mapping[str, Table], evidence: Mapping[str, Evidence]) -> dict[str, Verdict]:
    """Judge all claims, those of a tier as one family."""
    result: dict[str, Verdict] = {}
    for tier in {table.tier: None for table in tables.values()}:
        family = [claim_test(t, claim, evidence) for t in tables.values() if t.tier == tier for claim in t.claims]
        p_values = [test.p_values for test in family]
        holds, fails = holm([p.holds for p in p_values]), holm([p.fails for p in p_values])
        left = len(family) - sum(p <= ALPHA for p in holds), len(family) - sum(p <= ALPHA for p in fails)
        for test, *adjusted in zip(family, holds, fails, strict=True):
            verdict = _judge_claim(test, PValues(*adjusted), (ALPHA / max(1, left[0]), ALPHA / max(1, left[1])))
            result[verdict.id] = verdict
    return result


def _judge_claim(test: ClaimTest, p_values: PValues, levels: tuple[float, float]) -> Verdict:
    """Turn a claim's corrected p values into its verdict; ``levels`` are those that its next test would face."""
    table, claim = test.table, test.claim
    compared = [pair.compared for pair in test.pairs.values()]
    deciding = test.deciding.compared
    ruling = test.ruling or p_values.decide()
    looks = at_look(test.looks, test.seeds, ruling)
    further = looks.further(test.seeds) if looks else None
    if ruling == "inconclusive" and not looks:
        needed = claim_seeds(test, *levels)
        further = None if needed is None else max(1, needed - test.seeds)
    untested = test.p_values == NONE
    return Verdict(
        id=f"{table.name}/{claim.id}",
        kind="claim",
        table=table.name,
        tier=table.tier,
        protocol=table.protocol,
        metric=table.metric,
        text=claim.text,
        verdict=ruling,
        estimate=deciding.ratio if ruling in DECIDABLE else None,
        interval=deciding.interval if ruling in DECIDABLE else None,
        n=deciding.n,
        p=None if untested else p_values.holds,
        p_against=None if untested else p_values.fails,
        published=deciding.published,
        margin=claim.margin,
        compared=(deciding, *(pair for pair in compared if pair is not deciding)),
        further_seeds=further if ruling == "inconclusive" else None,
        looks=looks,
        notes=test.notes,
    )
