"""Published figures."""

from __future__ import annotations

from typing import Literal

from tractbench.claims.fields import Data, Positive


class Published(Data):
    """A published figure.

    Attributes:
        value: the figure.
        error: one standard deviation, as printed behind ±; None where none is printed.
        aggregation: which number over sampling seeds it is, as far as its source says.
        source: a key of the table's sources.
        budget: whether it was made at the cell's budget.
        note: what its sources say otherwise.
    """

    value: Positive
    error: Positive | None = None
    aggregation: Literal["mean", "minimum", "unknown"] = "unknown"
    source: str
    budget: Literal["same", "other", "unknown"] = "same"
    note: str = ""
