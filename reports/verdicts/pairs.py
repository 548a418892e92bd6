"""Comparisons of two cells over the training seeds that they share: what claims are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tractbench.claims.claims import Comparison
from tractbench.claims.published import Published
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.verdict import Compared
from tractbench.results.paired import improvement, sign_flip
from tractbench.results.sequential import Looked, looked
from tractbench.results.statistics import Difference, difference

MIN_SEEDS = 5
"""Shared training seeds without which no claim is decided."""


@dataclass(frozen=True)
class Pair:
    """One comparison of a claim.

    Attributes:
        compared: what is shown of it.
        logs: log(left / right) of the shared training seeds, in their order.
        found: their mean; None where they have no spread.
    """

    compared: Compared
    logs: tuple[float, ...]
    found: Difference | None

    @property
    def n(self) -> int:
        """Shared training seeds."""
        return len(self.logs)

    def enough(self, looks: Sequence[int], seeds: int) -> Difference | Looked | None:
        """Return what may decide a claim: the difference, or with looks what they saw, up to so many seeds."""
        if looks:
            seen = [self._at(look) for look in looks if look <= seeds]
            return looked(seen, looks) if seen else None
        return self._at(self.n)

    def _at(self, seeds: int) -> Difference | None:
        """Return the difference of the first seeds, if so many may decide a claim."""
        if seeds < MIN_SEEDS:
            return None
        return self.found if seeds == self.n else difference(self.logs[:seeds])

    @property
    def sign(self) -> float:
        """Of the difference: below 0 the first cell scores lower; 0 where there is none."""
        return math.copysign(1.0, self.found.estimate) if self.found and self.found.estimate else 0.0


def paired(comparison: Comparison, evidence: Mapping[str, Evidence]) -> Pair:
    """Compare two cells over the training seeds that they share, none if they were made with different things."""
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
        sign_flip=sign_flip(logs),
        sign_flip_against=sign_flip([-log for log in logs]),
        improvement=improvement(one, other),
    )
    return Pair(compared, tuple(logs), found)


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
