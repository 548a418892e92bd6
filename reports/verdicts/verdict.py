"""A verdict: what the runs say of one published figure or claim, with the numbers that it rests on."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tractbench.reports.verdicts.looks import Looks

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
        sign_flip: exact sign-flip p value that left scores lower, at least 1 / 2^n; it decides nothing.
        sign_flip_against: the same for higher.
        improvement: probability that a run of left scores lower than one of right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    left: str
    right: str
    ratio: float | None
    interval: tuple[float, float] | None
    n: int
    published: float | None
    sign_flip: float | None = None
    sign_flip_against: float | None = None
    improvement: float | None = None

    def beside(self, contradicted: bool = False) -> str:
        """Say what stands beside the t test: sign-flip p value, for or against, and probability of improvement."""
        p = self.sign_flip_against if contradicted else self.sign_flip
        parts = [] if p is None else [f"sign-flip p {p:.2g} (with {self.n} seeds at least 1/{2**self.n:,})"]
        if self.improvement is not None:
            parts.append(f"P(left lower) {self.improvement:.2f}")
        return ", ".join(parts)


class Planned(BaseModel):
    """A plan that was registered before the first of its runs: its hash, and when (ISO 8601, UTC)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    registered: str

    def __str__(self) -> str:
        """Say it in a few words."""
        return f"planned beforehand: plan {self.sha256[:8]} of {self.registered[:16].replace('T', ' ')}"


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
        estimate: of a cell the mean score over training seeds, of a published minimum the mean of our minima over as
            many runs; of a claim the ratio of scores in the comparison that
            decides, the weakest of those it needs.
        interval: 95% interval of the estimate over training seeds.
        n: training seeds; of a claim those that the comparison which decides shares.
        p: p value for the figure or claim, of a claim after Holm's correction; None where nothing was tested.
        p_against: the same against it.
        published: the published figure, of a claim the published ratio.
        published_error: one standard deviation of the published figure.
        margin: how far from it a reproduction may be; of a claim of equality, of the ratio's logarithm.
        wide: says so where the margin is wider than the gap to the nearest published figure of the table, else "".
        mean: beside an estimate that is of minima, the mean score over training seeds.
        difference: of a cell, the estimate minus the published figure.
        difference_90: its 90% interval, the published error included.
        difference_95: its 95% interval, likewise.
        compared: of a claim, all its comparisons, the one that decides first.
        further_seeds: training seeds that the next look takes; where there are no looks, those that decide with a
            chance of 0.8 if the truth is as estimated. None where nothing is left to decide, or no number up to 1,000
            can.
        looks: at which look it stands, None where one look is all.
        plan: the registered plan that it rests on, if there is one.
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
    wide: str = ""
    mean: float | None = None
    difference: float | None = None
    difference_90: tuple[float, float] | None = None
    difference_95: tuple[float, float] | None = None
    compared: tuple[Compared, ...] = ()
    further_seeds: int | None = None
    looks: Looks | None = None
    plan: Planned | None = None
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> bool:
        """Whether runs could still decide it."""
        return self.verdict in ("not run", "inconclusive") or self.n == 0
