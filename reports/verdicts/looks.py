"""At which look a verdict stands: level spent and left, the last look and the next."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tractbench.results.sequential import spent
from tractbench.results.statistics import ALPHA


class Looks(BaseModel):
    """The looks of a verdict.

    Attributes:
        declared: numbers of training seeds at which it may be decided.
        taken: the last of them so far, None before the first.
        next: the next one; None once it is decided, or after the last.
        spent: level that the looks so far have spent, of :data:`ALPHA`.
        left: level that is left for those to come.
        between: training seeds since the last look, which decide nothing yet.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    declared: tuple[int, ...]
    taken: int | None
    next: int | None
    spent: float
    left: float
    between: int

    def further(self, seeds: int) -> int | None:
        """Return how many training seeds the next look takes."""
        return None if self.next is None else self.next - seeds

    def __str__(self) -> str:
        """Say it in a line."""
        parts = ["no look yet"]
        if self.taken:
            level = f"{self.spent:.2%} of the level of {ALPHA:.0%} spent, {self.left:.2%} left"
            number = f"{self.declared.index(self.taken) + 1} of {len(self.declared)}"
            parts = [f"look {number}, at {self.taken} seeds, {level}"]
        if self.next:
            parts.append(f"the {'next' if self.taken else 'first'} is at {self.next} seeds")
        if self.between:
            many = self.between > 1
            since = "since then " * bool(self.taken)
            parts.append(f"the {self.between} seed{'s' * many} {since}decide{'s' * (not many)} nothing")
        return "; ".join(parts)


def at_look(declared: Sequence[int], seeds: int, ruling: str) -> Looks | None:
    """Return where a verdict stands; None without looks.

    Args:
        declared: its looks.
        seeds: training seeds that there are.
        ruling: the verdict.
    """
    if not declared:
        return None
    taken = max((look for look in declared if look <= seeds), default=None)
    open_still = ruling in ("inconclusive", "not run", "budget differs")
    now = ALPHA * spent(declared, taken)
    return Looks(
        declared=tuple(declared),
        taken=taken,
        next=next((look for look in declared if look > seeds), None) if open_still else None,
        spent=now,
        left=ALPHA - now,
        between=seeds - (taken or 0),
    )
