"""The tests of a claim: which comparisons must hold, what they say together, and what hinders them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tractbench.claims.claims import Claim
from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.pairs import Pair, paired
from tractbench.reports.verdicts.verdict import Ruling
from tractbench.results.statistics import NONE, PValues, any_of, equivalent, every, lower


@dataclass(frozen=True)
class ClaimTest:
    """A claim's tests: all pairs of one of the alternatives must hold."""

    table: Table
    claim: Claim
    alternatives: tuple[tuple[Pair, ...], ...]
    notes: tuple[str, ...]
    ruling: Ruling | None
    """The verdict that needs no test, and that no further seeds can change."""

    @property
    def pairs(self) -> dict[str, Pair]:
        """Every pair once."""
        return {f"{p.compared.left} {p.compared.right}": p for pairs in self.alternatives for p in pairs}

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of training seeds at which it is decided; none for one look, at all there are."""
        return self.table.looks_of(self.claim)

    @property
    def seeds(self) -> int:
        """Training seeds that every comparison has."""
        return min(pair.n for pair in self.pairs.values())

    @property
    def p_values(self) -> PValues:
        """One-sided p values before Holm's correction, which hold at whichever look one stops."""
        if self.ruling:
            return NONE
        return any_of([every([self._test(pair) for pair in pairs]) for pairs in self.alternatives])

    def _test(self, pair: Pair) -> PValues:
        seen = pair.enough(self.looks, self.seeds)
        return equivalent(seen, self.claim.margin) if self.claim.margin else lower(seen)

    @property
    def deciding(self) -> Pair:
        """The weakest comparison of the strongest alternative."""

        def weakest(pairs: tuple[Pair, ...]) -> Pair:
            return max(pairs, key=self._order)

        return min(map(weakest, self.alternatives), key=self._order)

    def _order(self, pair: Pair) -> float:
        margin = self.claim.margin
        return (equivalent(pair.found, margin) if margin else lower(pair.found)).holds


def claim_test(table: Table, claim: Claim, evidence: Mapping[str, Evidence]) -> ClaimTest:
    """Lay out a claim's tests; say where something hinders them."""
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
    pairs = tuple(tuple(paired(comparison, evidence) for comparison in part) for part in alternatives)
    return ClaimTest(table, claim, pairs, (*unlike, *notes), ruling)
