"""Published figures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from tractbench.claims.fields import Data, Positive


class Figure(Data):
    """A figure that somebody published.

    Attributes:
        value: the figure.
        error: one standard deviation, as printed behind ±; None where none is printed.
        aggregation: which number over runs it is, as far as its source says.
        runs: of a minimum, over how many runs; None where its source does not say.
        over: of a minimum, what differs between its runs: ``sampling``, other images of one student, or ``training``.
        source: a key of the table's sources.
        note: what its sources say otherwise.
    """

    value: Positive
    error: Positive | None = None
    aggregation: Literal["mean", "minimum", "unknown"] = "unknown"
    runs: Annotated[int, Strict(), Field(ge=2)] | None = None
    over: Literal["sampling", "training"] = "sampling"
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _of_a_minimum(self) -> Figure:
        if self.aggregation != "minimum" and {"runs", "over"} & self.model_fields_set:
            raise ValueError("runs and over belong to aggregation 'minimum', and to no other")
        return self


class Published(Figure):
    """The published figure of a cell.

    Attributes:
        budget: whether it was made at the cell's budget.
        others: independent reproductions, and what other sources print.
    """

    budget: Literal["same", "other", "unknown"] = "same"
    others: tuple[Other, ...] = ()


class Other(Figure):
    """The same figure from another source.

    Attributes:
        kind: ``reproduction``, trained again by others, or ``quotation``, printed by others.
    """

    kind: Literal["reproduction", "quotation"]


Published.model_rebuild()
