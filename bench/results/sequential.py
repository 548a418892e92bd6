"""Looking more than once: p values that hold however often one looks, up to a number of seeds fixed beforehand.

At the look of a share t of all seeds, t^3 of the level has been spent (Kim and DeMets 1987, close to O'Brien and
Fleming), and each look's test has what it adds to that. The sum of these levels is the level, whatever the looks have
to do with each other, in t tests and in tests of equivalence. Lan and DeMets' boundaries, from the joint normal
distribution, spend it a little better, but with so few seeds t statistics are no normal process: at 5, 10 and 20 seeds
they err 2% to 8% more often than their level (tests/benchmarks/looks.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tractbench.results.statistics import Difference

POWER_OF_SPENDING = 3
"""Exponent of the share of seeds: the larger, the less is spent at first and the more is left for the last look."""


def spent(looks: Sequence[int], seeds: int | None) -> float:
    """Return the share of the level that is spent at a look of so many seeds; 0 before the first (None)."""
    return 0.0 if seeds is None else float((seeds / looks[-1]) ** POWER_OF_SPENDING)


def shares(looks: Sequence[int]) -> tuple[float, ...]:
    """Return each look's own share of the level; they sum to 1."""
    until = [spent(looks, seeds) for seeds in looks]
    return tuple(after - before for before, after in pairwise([0.0, *until]))


@dataclass(frozen=True)
class Looked:
    """A difference as it was at each look so far.

    Its p values are the smallest level at which one of the looks would have decided: valid as p values at any of the
    looks, whichever one stops at, so that whatever holds for p values, such as Holm's correction, holds for them. They
    never grow from one look to the next: what is decided stays so.

    Attributes:
        differences: at the looks so far; None where the seeds had no spread or were too few.
        shares: of the level, for each of them.
    """

    differences: tuple[Difference | None, ...]
    shares: tuple[float, ...]

    def p_below(self, bound: float) -> float:
        """Return the p value for a difference below ``bound``."""
        return self._smallest([one.p_below(bound) if one else None for one in self.differences])

    def p_above(self, bound: float) -> float:
        """Return the p value for a difference above ``bound``."""
        return self._smallest([one.p_above(bound) if one else None for one in self.differences])

    def _smallest(self, p_values: Sequence[float | None]) -> float:
        found = [p / share for p, share in zip(p_values, self.shares, strict=True) if p is not None]
        return min([1.0, *found])


def looked(differences: Sequence[Difference | None], looks: Sequence[int]) -> Looked:
    """Return a difference that was looked at, at the first of these looks, one for each of ``differences``."""
    return Looked(tuple(differences), shares(looks)[: len(differences)])
