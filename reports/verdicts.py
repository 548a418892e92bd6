"""What the runs say of the paper's figures and claims.

A figure is judged by equivalence: reproduced when the 90% interval of our mean minus the figure, whose own error
counts, lies inside the margin, contradicted when the 95% interval lies wholly outside. A claim is judged by one-sided
paired t tests on the logarithm of scores over shared training seeds, at least five, with Holm's correction over all
claims of a tier, run or not: so no verdict depends on which tables are looked at, and none is lost when another claim's
runs are added. Tiers and protocols never meet, since every table has one. Nothing is decided while a training seed has
only failed runs: the others would be a choice. Errors are held to 5% for a number of seeds that was fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tractbench.claims.claims import Claim, Comparison
from tractbench.claims.published import Published
from tractbench.claims.rows import Cell
from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence, gather
from tractbench.results.record import Record
from tractbench.results.statistics import (
    ALPHA,
    NONE,
    POWER,
    Difference,
    PValues,
    any_of,
    difference,
    equivalence_seeds,
    equivalent,
    every,
    holm,
    lower,
    paired_seeds,
)

MIN_SEEDS = 5
"""Shared training seeds without which no claim is decided."""

DECIDABLE = ("reproduced", "contradicted", "inconclusive")
"""Verdicts that rest on scores."""

Ruling = Literal["reproduced", "contradicted", "inconclusive", "not run", "budget differs"]


class Compared(BaseModel):
    """Two cells over their shared training seeds.

    Attributes:
        left: ``table/row/nfe``.
        right: likewise.
        ratio: geometric mean of left's score over right's, None without shared seeds.
        interval: its 95% interval, None where seeds show no spread.
        n: shared training seeds.
        published: the ratio of the published figures, None unless both were made at their cells' budgets.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    left: str
    right: str
    ratio: float | None
    interval: tuple[float, float] | None
    n: int
    published: float | None


class Verdict(BaseModel):
    """What the runs say of one published figure or one claim.

    Attributes:
        id: ``table/row/nfe`` of a figure's cell, ``table/claim`` of a claim.
        kind: ``cell`` or ``claim``.
        table: its table.
        tier: evidence tier of every run behind it.
        protocol: evaluation protocol of every run behind it.
        metric: score of every run behind it.
        text: the row's label, or the claim.
        verdict: ``budget differs`` where published figure and runs are not of one training budget.
        estimate: of a cell the mean score over training seeds; of a claim the ratio of scores in the comparison that
            decides, the weakest of those it needs.
        interval: 95% interval of the estimate over training seeds.
        n: training seeds; of a claim those that the comparison which decides shares.
        p: p value for the figure or claim, of a claim after Holm's correction; None where nothing was tested.
        p_against: the same against it.
        published: the published figure, of a claim the published ratio.
        published_error: one standard deviation of the published figure.
        margin: how far from it a reproduction may be; of a claim of equality, of the ratio's logarithm.
        difference: of a cell, the mean minus the published figure.
        difference_90: its 90% interval, the published error included.
        difference_95: its 95% interval, likewise.
        compared: of a claim, all its comparisons, the one that decides first.
        further_seeds: training seeds that decide with a chance of 0.8 if the truth is as estimated; None where nothing
            is left to decide, or no number up to 1,000 can.
        notes: what else a reader has to know: runs left out, why a figure is not comparable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Literal["cell", "claim"]
    table: str
    tier: str
    protocol: str
    metric: str
    text: str
    verdict: Ruling
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    p: float | None = None
    p_against: float | None = None
    published: float | None = None
    published_error: float | None = None
    margin: float | None = None
    difference: float | None = None
    difference_90: tuple[float, float] | None = None
    difference_95: tuple[float, float] | None = None
    compared: tuple[Compared, ...] = ()
    further_seeds: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        """Whether runs could still decide it."""
        return self.verdict in ("not run", "inconclusive") or self.n == 0


def verdicts(records: Sequence[Record], tables: Mapping[str, Table]) -> list[Verdict]:
    """Judge every published figure and claim of all tables, in their order.

    Args:
        records: one for each identity, oldest first (:meth:`tractbench.results.store.Store.latest`).
        tables: all of them, whichever are shown: a claim is corrected for all claims of its tier.

    Raises:
        ConfigError: no run can have a cell's settings.
    """
    return judge(tables, gather(records, tables))


def judge(tables: Mapping[str, Table], evidence: Mapping[str, Evidence]) -> list[Verdict]:
    """Judge figures and claims by what was gathered for each cell's id."""
    claims = _judge_claims(tables, evidence)
    result = []
    for table in tables.values():
        cells = table.cells.values()
        result += [_judge_cell(table, cell, cell.published, evidence[cell.id]) for cell in cells if cell.published]
        result += [claims[f"{table.name}/{claim.id}"] for claim in table.claims]
    return result


def _judge_cell(table: Table, cell: Cell, published: Published, evidence: Evidence) -> Verdict:
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
        needed = equivalence_seeds(found.estimate, _std(own, n), cell.error, margin) if own and found else None
        needed = len(table.training_seeds) if n == 1 else needed
        changes["further_seeds"] = None if needed is None else max(1, needed - n)
    return verdict.model_copy(update=changes)


def _std(found: Difference, n: int) -> float:
    """Return the standard deviation of the sample behind a difference from a reference without error."""
    return found.error * math.sqrt(n)


@dataclass(frozen=True)
class _Pair:
    """One comparison of a claim: ``found`` is the mean of log(left / right) over the shared training seeds."""

    compared: Compared
    found: Difference | None
    n: int

    @property
    def enough(self) -> Difference | None:
        """The difference, if so many seeds may decide a claim."""
        return self.found if self.n >= MIN_SEEDS else None

    def seeds(self, sign: int, alpha: float, power: float) -> float:
        """Return how many seeds would show a difference of this sign, infinity if it has the other."""
        if self.found is None or self.found.estimate * sign <= 0:
            return math.inf
        return paired_seeds(self.found.estimate, _std(self.found, self.n), alpha, power) or math.inf


def _pair(comparison: Comparison, evidence: Mapping[str, Evidence]) -> _Pair:
    left, right = comparison
    ours, theirs = evidence[left.id], evidence[right.id]
    one, other = _by_shared_seed(ours, theirs) if ours.comparable(theirs) else ([], [])
    logs = [round(math.log(a) - math.log(b), 10) for a, b in zip(one, other, strict=True)]  # less is rounding
    found = difference(logs)
    compared = Compared(
        left=left.id,
        right=right.id,
        ratio=_exp(sum(logs) / len(logs)) if logs else None,
        interval=_exp_interval(found) if found else None,
        n=len(logs),
        published=_published_ratio(left.published, right.published),
    )
    return _Pair(compared, found, len(logs))


def _by_shared_seed(ours: Evidence, theirs: Evidence) -> tuple[list[float], list[float]]:
    """Return scores of both cells by the training seeds they share; one that trains nothing has them all."""
    if ours.trained and not theirs.trained and theirs.quoted:
        return list(ours.quoted.values()), [next(iter(theirs.quoted.values()))] * len(ours.quoted)
    if theirs.trained and not ours.trained and ours.quoted:
        return [next(iter(ours.quoted.values()))] * len(theirs.quoted), list(theirs.quoted.values())
    shared = sorted(ours.quoted.keys() & theirs.quoted.keys())
    return [ours.quoted[seed] for seed in shared], [theirs.quoted[seed] for seed in shared]


def _exp(log: float) -> float | None:
    """Return a ratio, None if no float holds it."""
    try:
        return math.exp(log)
    except OverflowError:
        return None


def _exp_interval(found: Difference) -> tuple[float, float] | None:
    low, high = map(_exp, found.interval())
    return None if low is None or high is None else (low, high)


def _published_ratio(left: Published | None, right: Published | None) -> float | None:
    if left is None or right is None or (left.budget, right.budget) != ("same", "same"):
        return None
    return left.value / right.value


@dataclass(frozen=True)
class _Tested:
    """A claim's tests: all pairs of one of the alternatives must hold."""

    table: Table
    claim: Claim
    alternatives: tuple[tuple[_Pair, ...], ...]
    notes: tuple[str, ...]
    ruling: Ruling | None
    """The verdict that needs no test, and that no further seeds can change."""

    @property
    def pairs(self) -> dict[str, _Pair]:
        """Every pair once."""
        return {f"{p.compared.left} {p.compared.right}": p for pairs in self.alternatives for p in pairs}

    @property
    def p_values(self) -> PValues:
        """One-sided p values before Holm's correction."""
        if self.ruling:
            return NONE
        return any_of([every([self._test(pair) for pair in pairs]) for pairs in self.alternatives])

    def _test(self, pair: _Pair) -> PValues:
        return equivalent(pair.enough, self.claim.margin) if self.claim.margin else lower(pair.enough)

    @property
    def deciding(self) -> _Pair:
        """The weakest comparison of the strongest alternative."""

        def weakest(pairs: tuple[_Pair, ...]) -> _Pair:
            return max(pairs, key=self._order)

        return min(map(weakest, self.alternatives), key=self._order)

    def _order(self, pair: _Pair) -> float:
        margin = self.claim.margin
        return (equivalent(pair.found, margin) if margin else lower(pair.found)).holds

    def seeds(self, alpha: float, alpha_against: float) -> int | None:
        """Return how many training seeds decide at these levels if the truth is as estimated, None if none can."""
        pairs = list(self.pairs.values())
        if self.ruling or any(pair.found is None and pair.n > 1 for pair in pairs):
            return None
        if any(pair.found is None for pair in pairs):
            return MIN_SEEDS
        if self.claim.margin:
            pair = self.deciding
            assert pair.found is not None
            needed = equivalence_seeds(pair.found.estimate, _std(pair.found, pair.n), 0.0, self.claim.margin, alpha)
            return None if needed is None else max(MIN_SEEDS, needed)
        parts = len(self.alternatives[0])
        one, each = alpha / len(self.alternatives), POWER ** (1 / parts)  # all parts of one alternative at once
        holds = min(max(pair.seeds(-1, one, each) for pair in pairs) for pairs in self.alternatives)
        some = POWER ** (1 / len(self.alternatives))  # one part of each alternative
        fails = max(min(pair.seeds(1, alpha_against / parts, some) for pair in pairs) for pairs in self.alternatives)
        soonest = min(holds, fails)
        return None if math.isinf(soonest) else max(MIN_SEEDS, int(soonest))


def _tested(table: Table, claim: Claim, evidence: Mapping[str, Evidence]) -> _Tested:
    alternatives = table.alternatives(claim)
    cells = {cell.ref: cell for pairs in alternatives for pair in pairs for cell in pair}
    notes = [f"{ref}: {note}" for ref, cell in cells.items() for note in evidence[cell.id].notes]
    absent = {ref: evidence[cell.id] for ref, cell in cells.items() if not evidence[cell.id].quoted}
    if len(absent) < len(cells) or any(found.missing != "not run" for found in absent.values()):
        notes += [f"{ref}: {found.missing}" for ref, found in absent.items()]
    compared = {(a.id, b.id): (a, b) for pairs in alternatives for a, b in pairs}.values()
    unlike = [
        f"{left.ref} and {right.ref} were not made with the same data, teacher and code of a plugin"
        for left, right in compared
        if not evidence[left.id].comparable(evidence[right.id])
    ]
    unlike += [
        f"{left.ref} and {right.ref} both train nothing, so that there is nothing to repeat"
        for left, right in compared
        if not evidence[left.id].trained and not evidence[right.id].trained
    ]
    failed = any(evidence[cell.id].failed for cell in cells.values())
    ruling: Ruling | None = None
    if failed or (unlike and not absent):
        ruling = "inconclusive"
    elif absent:
        ruling = "budget differs" if all(found.budgets for found in absent.values()) else "not run"
    pairs = tuple(tuple(_pair(comparison, evidence) for comparison in part) for part in alternatives)
    return _Tested(table, claim, pairs, (*unlike, *notes), ruling)


def _judge_claims(tables: Mapping[str, Table], evidence: Mapping[str, Evidence]) -> dict[str, Verdict]:
    """Judge all claims, those of a tier as one family."""
    result: dict[str, Verdict] = {}
    for tier in {table.tier: None for table in tables.values()}:
        family = [_tested(t, claim, evidence) for t in tables.values() if t.tier == tier for claim in t.claims]
        p_values = [tested.p_values for tested in family]
        holds, fails = holm([p.holds for p in p_values]), holm([p.fails for p in p_values])
        left = len(family) - sum(p <= ALPHA for p in holds), len(family) - sum(p <= ALPHA for p in fails)
        for tested, *adjusted in zip(family, holds, fails, strict=True):
            verdict = _judge_claim(tested, PValues(*adjusted), (ALPHA / max(1, left[0]), ALPHA / max(1, left[1])))
            result[verdict.id] = verdict
    return result


def _judge_claim(tested: _Tested, p_values: PValues, levels: tuple[float, float]) -> Verdict:
    """Turn a claim's corrected p values into its verdict; ``levels`` are those that its next test would face."""
    table, claim = tested.table, tested.claim
    compared = [pair.compared for pair in tested.pairs.values()]
    deciding = tested.deciding.compared
    ruling = tested.ruling or p_values.decide()
    further = None
    if ruling == "inconclusive":
        needed = tested.seeds(*levels)
        further = None if needed is None else max(1, needed - min(pair.n for pair in compared))
    untested = tested.p_values == NONE
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
        further_seeds=further,
        notes=tested.notes,
    )
