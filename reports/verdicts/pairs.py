"""Comparisons of two cells over the training seeds that they share: what claims are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tractbench.claims.claims import Comparison
from tractbench.claims.published import Published
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.verdict import Compared
from tractbench.results.statistics import Difference, difference

MIN_SEEDS = 5
"""Shared training seeds without which no claim is decided."""


@dataclass(frozen=True)
class Pair:
    """One comparison of a claim: ``found`` is the mean of log(left / right) over the shared training seeds."""

    compared: Compared
    found: Difference | None
    n: int

    @property
    def enough(self) -> Difference | None:
        """The difference, if so many seeds may decide a claim."""
        return self.found if self.n >= MIN_SEEDS else None

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
    )
    return Pair(compared, found, len(logs))


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
