"""Ablations: cells along an axis."""

from __future__ import annotations

from pydantic import Field

from tractbench.claims.fields import CellRef, Data, Id, Number


class Point(Data):
    """A point of an ablation: its place on the axis, its cell (``row/nfe``) and, where there are several, its line."""

    x: Number | str
    cell: CellRef
    line: str = ""


class Axis(Data):
    """An ablation: cells that differ in one setting ``x``, in its order, and between lines in another."""

    id: Id
    title: str
    x: str
    points: tuple[Point, ...] = Field(min_length=2)
    note: str = ""

    @property
    def lines(self) -> dict[str, list[Point]]:
        """Points by the line they lie on, in order."""
        return {name: [p for p in self.points if p.line == name] for name in dict.fromkeys(p.line for p in self.points)}
