"""How far from a published figure a score may be that reproduces it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, model_validator

from tractbench.claims.fields import Data, Positive


class Margin(Data):
    """A margin, with its reason: relative or measured.

    One that is measured was measured before, on other runs than those that it judges: a margin that grew with their own
    spread would be met the sooner the worse they repeat.

    Attributes:
        share: of the figure.
        training_std: standard deviation over training seeds.
        times: how many of them.
        reason: why so wide; of a measured one, where it was measured.
    """

    share: Positive | None = None
    training_std: Positive | None = None
    times: Positive = 2.0
    reason: str

    @model_validator(mode="after")
    def _complete(self) -> Margin:
        if (self.share is None) == (self.training_std is None):
            raise ValueError("a margin is a share of the figure or so many times a training_std; give one of them")
        if self.share is not None and "times" in self.model_fields_set:
            raise ValueError("times belongs to training_std")
        if not self.reason.strip():
            raise ValueError("a margin needs a reason")
        return self

    def of(self, figure: float) -> float:
        """Return the margin of a figure, in its own units."""
        return self.share * figure if self.share is not None else self.times * (self.training_std or 0.0)

    def __str__(self) -> str:
        """Say how wide it is."""
        if self.share is not None:
            return f"{100 * self.share:.3g}% of the figure"
        return f"{self.times:g} standard deviations over training seeds, of {self.training_std:g} each"


def _no_number(value: object) -> object:
    if isinstance(value, int | float):
        raise ValueError(f'a margin is relative or measured, such as {{ share = 0.05, reason = "..." }}, not {value}')
    return value


MarginData = Annotated[Margin, BeforeValidator(_no_number)]


@dataclass(frozen=True)
class Nearest:
    """The published figure nearest to another one of the same table and NFE.

    Attributes:
        label: its row.
        value: the figure.
        gap: how far apart they are.
    """

    label: str
    value: float
    gap: float

    def said(self, margin: float) -> str:
        """Say that a margin does not tell the two apart; "" where it does."""
        if margin <= self.gap:
            return ""
        return f"the margin of ±{margin:.2g} does not tell it from {self.label}, {self.value:g}"
