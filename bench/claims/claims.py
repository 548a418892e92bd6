"""Claims: what is said of cells, and how runs test it."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from tractbench.claims.fields import CellRefs, Data, Id, Looks, Positive
from tractbench.claims.rows import Cell


class Claim(Data):
    """A claim and how runs test it, always between cells of its own table (``row/nfe``).

    Attributes:
        test: ``lower``: every cell of ``left`` scores lower than its partner in ``right``; ``lowest``: ``left`` scores
            lower than every other point of the axis; ``interior``: a point inside the axis (``left``, or any) scores
            lower than both of its ends; ``ordered``: scores fall along the axis; ``equal``: the logarithm of the ratio
            of ``left`` to ``right`` lies within +- ``margin``.
        margin: of ``equal`` only.
        looks: numbers of shared training seeds at which it is decided; none for those of the table.
    """

    id: Id
    text: str
    test: Literal["lower", "lowest", "interior", "ordered", "equal"]
    left: CellRefs = ()
    right: CellRefs = ()
    axis: str | None = None
    margin: Positive | None = None
    margin_reason: str = ""
    looks: Looks = ()
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Claim:
        pairs = self.test in ("lower", "equal")
        if pairs and (not self.left or len(self.left) != len(self.right) or self.axis):
            raise ValueError(f"test '{self.test}' needs as many cells in left as in right, and no axis")
        if not pairs and (not self.axis or self.right):
            raise ValueError(f"test '{self.test}' needs an axis and no right")
        counts = {"lowest": (1,), "interior": (0, 1), "ordered": (0,), "equal": (1,)}
        if self.test in counts and len(self.left) not in counts[self.test]:
            raise ValueError(f"test '{self.test}' takes {' or '.join(map(str, counts[self.test]))} cells in left")
        if (self.test == "equal") != (self.margin is not None):
            raise ValueError("a margin belongs to test 'equal', and to no other")
        if self.margin is not None and not self.margin_reason:
            raise ValueError("a margin needs a margin_reason")
        return self


Comparison = tuple[Cell, Cell]
"""A claim's smallest part: the first cell scores lower than the second, or for ``equal`` about the same."""
