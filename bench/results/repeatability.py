"""Whether two sets of scores differ by no more than repeated trainings do: equivalence in units of their own spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from scipy.special import ncfdtr, stdtrit

from tractbench.results.statistics import ALPHA, PValues

LIMIT: Final = 1.96 * math.sqrt(2)
"""Repeatability limit, in standard deviations: two single results of one method on one machine differ by less with 95%
probability (ISO 5725-6, 4.1). A shift below it is one that nobody sees who compares two trainings."""


@dataclass(frozen=True)
class Shift:
    """The difference of the means of two samples, and the spread within them.

    Attributes:
        estimate: first minus second.
        spread: pooled standard deviation within the samples.
        first: size of the first sample.
        second: size of the second.
    """

    estimate: float
    spread: float
    first: int
    second: int

    @property
    def df(self) -> int:
        """Degrees of freedom of the spread."""
        return self.first + self.second - 2

    @property
    def _scale(self) -> float:
        return math.sqrt(1 / self.first + 1 / self.second)

    @property
    def within(self) -> PValues:
        """Test that the true shift is below :data:`LIMIT` true standard deviations, against above it.

        The square of the t statistic has a noncentral F distribution, whose noncentrality at the limit is
        ``(LIMIT / scale)^2``: the uniformly most powerful invariant test of equivalence in units of an unknown spread
        (Wellek 2010, "Testing Statistical Hypotheses of Equivalence and Noninferiority", 6.1). It keeps its level for
        one value against several, and where seeds are shared and scores thus alike it errs less often still.
        """
        squared = (self.estimate / (self.spread * self._scale)) ** 2
        below = float(ncfdtr(1, self.df, (LIMIT / self._scale) ** 2, squared))
        return PValues(below, 1 - below)

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float]:
        """Return the interval of the shift by Student's t."""
        half = -float(stdtrit(self.df, (1 - level) / 2)) * self.spread * self._scale
        return self.estimate - half, self.estimate + half


def shift(first: Sequence[float], second: Sequence[float]) -> Shift | None:
    """Compare two samples; None where they have no spread to judge by, such as one value each."""
    df = len(first) + len(second) - 2
    if not first or not second or df < 1:
        return None
    means = [statistics.fmean(sample) for sample in (first, second)]
    squares = math.fsum((v - mean) ** 2 for sample, mean in zip((first, second), means, strict=True) for v in sample)
    spread = math.sqrt(squares / df)
    if spread <= 1e-12 * max(1.0, *(abs(value) for value in (*first, *second))):
        return None
    return Shift(means[0] - means[1], spread, len(first), len(second))
