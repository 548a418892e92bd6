"""Tables of cells: the table itself and its ablations."""

from __future__ import annotations

from tractbench.claims.axes import Axis
from tractbench.claims.rows import Cell
from tractbench.reports.chapters.captions import caption
from tractbench.reports.chapters.columns import columns, entries, has_budget
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.chart import axis_text
from tractbench.reports.sheet import Entry, Notes, Sheet, slug


def main(subject: Subject) -> list[Sheet]:
    """Return the table itself, unless all of its rows are ablations."""
    cells = [cell for cell in subject.table.cells.values() if not cell.row.ablation]
    return [_sheet(subject, "cells", subject.table.title, cells)] if cells else []


def axis_sheet(subject: Subject, axis: Axis) -> Sheet:
    """Return an ablation: the cells along its axis."""
    cells = [subject.table.cells[point.cell] for point in axis.points]
    return _sheet(subject, f"axis-{axis.id}", axis.title, cells, axis)


def _sheet(subject: Subject, part: str, title: str, cells: list[Cell], axis: Axis | None = None) -> Sheet:
    notes = Notes()
    best = _best(subject, cells)
    rows = []
    for index, cell in enumerate(cells):
        marks = notes.mark(cell.row.note)
        if axis is None:
            lead = [Entry(cell.row.label, cell.row.label, marks=marks), Entry(str(cell.nfe), cell.nfe)]
        else:
            point = axis.points[index]
            lead = [Entry(axis_text(axis.x, point.x), f"{index:04d}", marks=marks)]
            lead += [Entry(point.line, point.line)] if len(axis.lines) > 1 else []
        rows.append((*lead, *entries(subject, cell, best, notes, has_budget(axis))))
    anchor, text = slug(f"{subject.table.name}-{part}"), caption(subject, cells, axis)
    several = len({cell.nfe for cell in cells}) > 1
    bold = "Best of each NFE in bold." if several else "Best in bold."
    return Sheet(anchor, title, text, columns(subject, cells, axis), tuple(rows), notes.texts, best=bold)


def _best(subject: Subject, cells: list[Cell]) -> set[tuple[str, bool]]:
    """Return ids of the cells whose score is the lowest of their NFE, our own (False) and published (True)."""
    found = set()
    for nfe in {cell.nfe for cell in cells}:
        scored = {c.id: subject.evidence[c.id].mean for c in cells if c.nfe == nfe}
        ours = {cell_id: mean for cell_id, mean in scored.items() if mean is not None}
        theirs = {c.id: c.published.value for c in cells if c.nfe == nfe and c.published}
        for published, values in ((False, ours), (True, theirs)):
            if len(values) > 1:
                found.add((min(values, key=values.__getitem__), published))
    return found
