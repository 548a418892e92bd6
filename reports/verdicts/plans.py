"""Plans: how many training seeds would decide what is not decided yet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tractbench.reports.verdicts.claim_tests import ClaimTest
from tractbench.reports.verdicts.pairs import MIN_SEEDS, Pair
from tractbench.results.statistics import POWER, Difference, difference, equivalence_seeds, paired_seeds


def figure_seeds(values: Sequence[float], published: float, error: float, margin: float, asked: int) -> int | None:
    """Return how many training seeds decide a published figure if the truth is as estimated, None if none can.

    Args:
        values: our score of each training seed.
        published: the figure.
        error: its standard deviation.
        margin: how far from it a reproduction may be.
        asked: training seeds that the table asks for, the plan where a single one tells no spread.
    """
    n = len(values)
    if n == 1:
        return asked
    found = difference(values, published, error)
    return equivalence_seeds(found.estimate, _std(found, n), error, margin) if found else None


def claim_seeds(test: ClaimTest, alpha: float, alpha_against: float) -> int | None:
    """Return how many training seeds decide a claim at these levels if the truth is as estimated, None if none can."""
    pairs = list(test.pairs.values())
    if test.ruling or any(pair.found is None and pair.n > 1 for pair in pairs):
        return None
    if any(pair.found is None for pair in pairs):
        return MIN_SEEDS
    if test.claim.margin:
        pair = test.deciding
        assert pair.found is not None
        needed = equivalence_seeds(pair.found.estimate, _std(pair.found, pair.n), 0.0, test.claim.margin, alpha)
        return None if needed is None else max(MIN_SEEDS, needed)
    parts = len(test.alternatives[0])
    borne_out = [pairs for pairs in test.alternatives if all(pair.sign < 0 for pair in pairs)]
    if borne_out:  # then no number of seeds decides against it
        one, each = alpha / len(test.alternatives), POWER ** (1 / parts)  # all parts of one alternative at once
        soonest = min(max(_pair_seeds(pair, one, each) for pair in pairs) for pairs in borne_out)
    else:
        some = POWER ** (1 / len(test.alternatives))  # one part of each alternative
        against = [[pair for pair in pairs if pair.sign > 0] for pairs in test.alternatives]
        soonest = max(
            min((_pair_seeds(pair, alpha_against / parts, some) for pair in pairs), default=math.inf)
            for pairs in against
        )
    return None if math.isinf(soonest) else max(MIN_SEEDS, int(soonest))


def _pair_seeds(pair: Pair, alpha: float, power: float) -> float:
    """Return how many seeds would show a difference of the sign that it has, infinity if none can."""
    assert pair.found is not None
    return paired_seeds(pair.found.estimate, _std(pair.found, pair.n), alpha, power) or math.inf


def _std(found: Difference, n: int) -> float:
    """Return the standard deviation of the sample behind a difference."""
    return found.error * math.sqrt(n)
