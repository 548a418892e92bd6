"""Verdicts on shipped results: whether somebody's own runs of a cell score what the shipped ones do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.results.record import Record
from tractbench.results.repeatability import LIMIT, shift

Answer = Literal["yes", "no", "undecided", "other files"]


class Repeat(BaseModel):
    """Whether a shipped result was reproduced on the user's machine.

    Attributes:
        id: ``table/row/nfe``.
        answer: ``yes`` if every run has the shipped bits, or the shift of the mean logarithm of scores is shown to be
            below the repeatability limit; ``no`` if it is shown to be above.
        ratio: geometric mean of the user's scores over that of the shipped ones, None where they are not comparable.
        interval: its 95% interval, None without a spread.
        spread: standard deviation of the logarithm within both, None without one.
        unit: what is repeated: training seeds; sampling seeds of a method that trains nothing.
        n: the user's.
        shipped: the shipped ones.
        shared: runs of the same seeds and settings on both sides.
        same: those of them with the same scores to the bit.
        p: p value for it, None where nothing was tested.
        p_against: the same against it.
        note: what else is to be known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    answer: Answer
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    spread: float | None = None
    unit: Literal["training seed", "sampling seed"] = "training seed"
    n: int = 0
    shipped: int = 0
    shared: int = 0
    same: int = 0
    p: float | None = None
    p_against: float | None = None
    note: str = ""

    @property
    def said(self) -> str:
        """The answer in words."""
        if self.answer == "yes" and self.same == self.shared and self.p is None:
            return "yes, to the bit"
        if self.answer == "yes":
            return "yes, within sampling and hardware spread"
        return "no, beyond sampling and hardware spread" if self.answer == "no" else self.answer

    def __str__(self) -> str:
        """Say it in a line, with the numbers that it rests on."""
        parts = [f"reproduced on your machine: {self.said}"]
        if self.ratio is not None:
            interval = "" if self.interval is None else f" [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"
            parts.append(f"ratio of yours to shipped {self.ratio:.4g}{interval}")
        if self.n:
            parts.append(f"{self.n} {self.unit}{'s' * (self.n > 1)} against {self.shipped}")
        if self.spread is not None:
            parts.append(f"limit {LIMIT:.2f} standard deviations, ±{math.expm1(LIMIT * self.spread):.2g} of the score")
        if self.p is not None and self.p_against is not None:
            parts.append(f"p {self.p_against if self.answer == 'no' else self.p:.2g}")
        if self.shared:
            parts.append(f"{self.same} of {self.shared} run{'s' * (self.shared > 1)} of the same seeds to the bit")
        return ", ".join(filter(None, [*parts, self.note]))


def repeats(
    tables: Mapping[str, Table], yours: Mapping[str, Evidence], shipped: Mapping[str, Evidence]
) -> dict[str, Repeat]:
    """Compare every cell that both have, by its id; each is a verdict of its own, not corrected for the others."""
    cells = [cell for table in tables.values() for cell in table.cells.values()]
    both = [cell for cell in cells if yours[cell.id].quoted and shipped[cell.id].quoted]
    return {cell.id: _repeat(cell.id, cell.metric, yours[cell.id], shipped[cell.id]) for cell in both}


def _repeat(name: str, metric: str, yours: Evidence, shipped: Evidence) -> Repeat:
    ours, theirs = _logs(yours), _logs(shipped)
    unit: Literal["training seed", "sampling seed"] = "training seed" if yours.trained else "sampling seed"
    if not yours.comparable(shipped):
        note = "teacher, data, reference or code of a plugin are others than those of the shipped runs"
        return Repeat(id=name, answer="other files", unit=unit, n=len(ours), shipped=len(theirs), note=note)
    by_identity = {record.identity: record for record in shipped.records}
    pairs = [(record, by_identity[record.identity]) for record in yours.records if record.identity in by_identity]
    same = sum(one.metrics[metric].per_seed == other.metrics[metric].per_seed for one, other in pairs)
    unlike = any(one.metrics[metric].per_seed != other.metrics[metric].per_seed and _alike(one, other)
                 for one, other in pairs)  # fmt: skip
    found = shift(ours, theirs)
    exact = same == len(yours.records)
    p_values = found.within if found and not exact else None
    decided = "reproduced" if exact else p_values.decide() if p_values else "inconclusive"
    answers: Mapping[str, Answer] = {"reproduced": "yes", "contradicted": "no", "inconclusive": "undecided"}
    low, high = found.interval() if found else (0.0, 0.0)
    return Repeat(
        id=name,
        answer=answers[decided],
        ratio=math.exp(sum(ours) / len(ours) - sum(theirs) / len(theirs)),
        interval=(math.exp(low), math.exp(high)) if found and not exact else None,
        spread=found.spread if found else None,
        unit=unit,
        n=len(ours),
        shipped=len(theirs),
        shared=len(pairs),
        same=same,
        p=p_values.holds if p_values else None,
        p_against=p_values.fails if p_values else None,
        note="the same kind of machine and versions, and yet other bits" if unlike else "",
    )


def _logs(evidence: Evidence) -> list[float]:
    """Return logarithms of what is repeated: of each training seed's score, else of each sampling seed's."""
    if evidence.trained:
        return [math.log(score) for score in evidence.quoted.values()]
    return [math.log(score) for by_seed in evidence.scores.values() for score in by_seed.values()]


def _alike(one: Record, other: Record) -> bool:
    """Whether both say that they were made on one kind of machine with one set of versions."""
    keys = ("processor", "device", "threads", "packages", "numerics")
    return all(one.environment.get(key) == other.environment.get(key) for key in keys)
