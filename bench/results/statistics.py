"""What a few training seeds can say: intervals, paired tests, equivalence, Holm's correction, seeds still needed.

The unit is the training seed. Scores over sampling seeds of one student are averaged first; their spread says how well
one student was scored, never how well a method does.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import gammaincinv, nctdtr, ndtr, ndtri, stdtr, stdtrit

ALPHA = 0.05
"""Level of every test: 95% intervals against a claim, 90% intervals for equivalence."""

POWER = 0.8
"""Chance of a decision that further seeds are planned for."""

MAX_SEEDS = 1000
"""No plan needs more training seeds than this."""

Decision = Literal["reproduced", "contradicted", "inconclusive"]


@dataclass(frozen=True)
class Spread:
    """Scores of a cell.

    Attributes:
        mean: over training seeds.
        training: standard deviation of training seeds' means, None for one seed.
        sampling: root mean square over training seeds of the standard deviation over sampling seeds, None if no
            training seed has two.
        n: number of training seeds.
    """

    mean: float
    training: float | None
    sampling: float | None
    n: int


def variance(values: Collection[float]) -> float:
    """Return the sample variance (n - 1), rounded once a sum; a report over 10,000 runs asks for it 30,000 times."""
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def spread(scores: Mapping[int, Mapping[int, float]]) -> Spread:
    """Summarise scores by training seed, then sampling seed; the two spreads stay apart."""
    means = [statistics.fmean(by_sampling.values()) for by_sampling in scores.values()]
    variances = [variance(by_sampling.values()) for by_sampling in scores.values() if len(by_sampling) > 1]
    return Spread(
        mean=statistics.fmean(means),
        training=math.sqrt(variance(means)) if len(means) > 1 else None,
        sampling=math.sqrt(statistics.fmean(variances)) if variances else None,
        n=len(means),
    )


@dataclass(frozen=True)
class Difference:
    """The mean of a sample minus a reference that may have an error of its own.

    Its limits are those of the sample's t and of the reference's normal distribution, joined by the root of their sum
    of squares (Howe 1974; Zou and Donner 2008). With so few seeds Welch's approximation errs too often, up to 8.5% for
    5% at two seeds; in the same simulations this one does not.

    Attributes:
        estimate: the difference.
        error: standard error of the sample's mean.
        df: its degrees of freedom.
        reference_error: one standard deviation of the reference, counted as known.
    """

    estimate: float
    error: float
    df: int
    reference_error: float = 0.0

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        """Return the interval of the difference."""
        half = half_width((1 - level) / 2, self.error, self.df, self.reference_error)
        return self.estimate - half, self.estimate + half

    def p_below(self, bound: float) -> float:
        """Return the one-sided p value for a difference below ``bound``: where the upper limit meets the bound."""
        return self._tail(self.estimate - bound)

    def p_above(self, bound: float) -> float:
        """Return the one-sided p value for a difference above ``bound``."""
        return self._tail(bound - self.estimate)

    def _tail(self, distance: float) -> float:
        """Return the level at which a limit that lies ``-distance`` from the estimate is met."""
        if self.reference_error == 0:
            return float(stdtr(self.df, distance / self.error))
        if distance >= 0:
            return 1 - self._tail(-distance) if distance else 0.5

        def beyond(log_level: float) -> float:
            return half_width(math.exp(log_level), self.error, self.df, self.reference_error) + distance

        return math.exp(brentq(beyond, LOG_TINY, math.log(0.5))) if beyond(LOG_TINY) > 0 else 0.0


ROOT_2PI = math.sqrt(2 * math.pi)


@lru_cache(maxsize=64)
def minimum_std(k: int) -> float:
    """Return the standard deviation of the least of ``k`` independent standard normal numbers."""

    def moment(power: int) -> float:
        """Return the mean of a power of it, whose density is k phi(x) (1 - Phi(x))^(k - 1)."""
        return float(quad(lambda x: x**power * k * math.exp(-x * x / 2) * ndtr(-x) ** (k - 1), -12, 12)[0]) / ROOT_2PI

    return math.sqrt(moment(2) - moment(1) ** 2)


LOG_TINY = -700.0
"""Logarithm of the smallest p value that is told from 0."""


def half_width(level: float, error: float, df: int, reference_error: float) -> float:
    """Return how far a one-sided limit of a :class:`Difference` at a level lies from the estimate."""
    return math.hypot(float(stdtrit(df, level)) * error, float(ndtri(level)) * reference_error)


def difference(values: Sequence[float], reference: float = 0.0, error: float = 0.0) -> Difference | None:
    """Compare a sample's mean with a reference; without a reference, of paired differences, this is their t test.

    Args:
        values: one for each training seed.
        reference: what the mean is compared with.
        error: one standard deviation of the reference.

    Returns:
        The difference, or None where the sample has no spread to judge by: one seed, or seeds that all score the same
        and so are no repetitions.
    """
    n = len(values)
    if n < 2 or max(values) - min(values) <= 1e-12 * max(map(abs, values)):
        return None
    own = statistics.stdev(values) / math.sqrt(n)
    return Difference(statistics.fmean(values) - reference, own, n - 1, error)


@dataclass(frozen=True)
class PValues:
    """One-sided p values for a statement and against it."""

    holds: float
    fails: float

    def decide(self, alpha: float = ALPHA) -> Decision:
        """Return what the p values say at a level; after several looks both may speak, and the smaller decides."""
        if min(self.holds, self.fails) > alpha:
            return "inconclusive"
        return "reproduced" if self.holds <= self.fails else "contradicted"


NONE = PValues(1.0, 1.0)
"""No evidence either way."""


class Tested(Protocol):
    """A difference with one-sided p values: a :class:`Difference`, or one that was looked at several times."""

    def p_below(self, bound: float) -> float:
        """Return the p value for a difference below ``bound``."""

    def p_above(self, bound: float) -> float:
        """Return the p value for a difference above ``bound``."""


def lower(differences: Tested | None) -> PValues:
    """Test that paired differences have a mean below 0, against above 0."""
    return PValues(differences.p_below(0.0), differences.p_above(0.0)) if differences else NONE


def equivalent(found: Tested | None, margin: float) -> PValues:
    """Test that a difference lies within +- ``margin``, against outside of it.

    At level 0.05 it holds when the 90% interval lies inside the margin, and fails when the 95% interval lies wholly
    outside it (two one-sided tests, Schuirmann 1987).
    """
    if found is None:
        return NONE
    inside = max(found.p_below(margin), found.p_above(-margin))
    return PValues(inside, min(1.0, 2 * min(found.p_above(margin), found.p_below(-margin))))


def every(parts: Sequence[PValues]) -> PValues:
    """Test that all statements hold: intersection-union for it, Bonferroni over the parts against it."""
    return PValues(max(p.holds for p in parts), min(1.0, len(parts) * min(p.fails for p in parts)))


def any_of(parts: Sequence[PValues]) -> PValues:
    """Test that one of the statements holds: Bonferroni over them for it, intersection-union against it."""
    return PValues(min(1.0, len(parts) * min(p.holds for p in parts)), max(p.fails for p in parts))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, in their order (Holm 1979); they control the family-wise error."""
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def paired_seeds(mean: float, std: float, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Return how many pairs a one-sided paired t test needs to see a mean difference in its own direction.

    Args:
        mean: expected mean of the differences, of either sign.
        std: their standard deviation.
        alpha: level of the test.
        power: chance of a decision.

    Returns:
        The smallest number with that power, None beyond 1,000.
    """

    def reached(n: int) -> float:
        return 1.0 - float(nctdtr(n - 1, abs(mean) / std * math.sqrt(n), -stdtrit(n - 1, alpha)))

    return _fewest(reached, power)


def equivalence_seeds(found: float, std: float, error: float, margin: float, alpha: float = ALPHA) -> int | None:
    """Return how many training seeds decide by :func:`equivalent`.

    The reference is what it is: only our mean would come out otherwise if it were drawn again.

    Args:
        found: expected difference; within the margin the plan is to show that it is, outside to show that it is not.
        std: standard deviation over training seeds.
        error: one standard deviation of the reference, which no number of seeds lowers.
        margin: the margin.
        alpha: level of the test.

    Returns:
        The smallest number with power of at least 0.8, None beyond 1,000.
    """
    outside = abs(found) >= margin
    level = alpha / 2 if outside else alpha

    def reached(n: int) -> float:
        true = std / math.sqrt(n)
        observed = true * _spreads(n)  # standard errors that n seeds may show
        half = np.hypot(stdtrit(n - 1, level) * observed, ndtri(level) * error)
        if outside:
            return float(ndtr((abs(found) - margin - half) / true).mean())
        chance = ndtr((margin - half - found) / true) - ndtr((half - margin - found) / true)
        return float(np.maximum(chance, 0.0).mean())

    return _fewest(reached, POWER)


QUANTILES = (np.arange(400) + 0.5) / 400
"""Where a distribution is taken to average over it."""


@lru_cache(maxsize=MAX_SEEDS)
def _spreads(n: int) -> npt.NDArray[np.float64]:
    """Return quantiles of a sample's standard deviation over the true one, [400]; plans ask for each ``n`` often."""
    return np.asarray(np.sqrt(2 * gammaincinv((n - 1) / 2, QUANTILES) / (n - 1)))


def _fewest(reached: Callable[[int], float], power: float) -> int | None:
    """Return the smallest number of seeds with enough power, which grows with their number."""
    n = bisect_left(range(MAX_SEEDS + 1), power, lo=2, key=reached)
    return n if n <= MAX_SEEDS else None
