"""Tables of cells: the table itself and its ablations."""

from __future__ import annotations

from collections.abc import Sequence

from tractbench.claims.axes import Axis
from tractbench.claims.published import Published
from tractbench.claims.rows import Cell
from tractbench.reports.chapters.captions import caption
from tractbench.reports.chapters.columns import columns, entries, has_budget
from tractbench.reports.chapters.field import cited_entries
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.chart import axis_text
from tractbench.reports.findings import Source
from tractbench.reports.sheet import Entry, Notes, Sheet, slug


def main(subject: Subject) -> list[Sheet]:
    """Return the table itself, with the rows that cannot be run here; nothing if all of its rows are ablations."""
    table, notes = subject.table, Notes()
    shown = [(row, data) for row in table.rows if not row.ablation for data in row.cells]
    if not shown:
        return []
    cells = [table.cells[f"{row.id}/{data.nfe}"] for row, data in shown if not row.cannot]
    figures = [(f"{table.name}/{row.id}/{data.nfe}", data.nfe, data.published) for row, data in shown if not row.data]
    bests = _bests(subject, cells, figures)
    rows = []
    for row, data in shown:
        lead = [Entry(row.label, row.label, marks=notes.mark(row.note)), Entry(str(data.nfe), data.nfe)]
        if row.cannot:
            lowest = (f"{table.name}/{row.id}/{data.nfe}", True) in bests["yours"]
            rows.append((*lead, *cited_entries(subject, row, data, lowest, notes)))
            continue
        cell = table.cells[f"{row.id}/{data.nfe}"]
        for one in subject.lines(cell.id):
            rows.append((*lead, *entries(one, cell, bests[one.source], notes, True)))
    return [_sheet(subject, "cells", table.title, cells, rows, notes)]


def axis_sheet(subject: Subject, axis: Axis) -> Sheet:
    """Return an ablation: the cells along its axis."""
    cells, notes = [subject.table.cells[point.cell] for point in axis.points], Notes()
    bests = _bests(subject, cells, [(cell.id, cell.nfe, cell.published) for cell in cells])
    rows = []
    for index, (cell, point) in enumerate(zip(cells, axis.points, strict=True)):
        lead = [Entry(axis_text(axis.x, point.x), f"{index:04d}", marks=notes.mark(cell.row.note))]
        lead += [Entry(point.line, point.line)] if len(axis.lines) > 1 else []
        for one in subject.lines(cell.id):
            rows.append((*lead, *entries(one, cell, bests[one.source], notes, has_budget(axis))))
    return _sheet(subject, f"axis-{axis.id}", axis.title, cells, rows, notes, axis)


def _sheet(
    subject: Subject,
    part: str,
    title: str,
    cells: list[Cell],
    rows: list[tuple[Entry, ...]],
    notes: Notes,
    axis: Axis | None = None,
) -> Sheet:
    anchor, text = slug(f"{subject.table.name}-{part}"), caption(subject, cells, axis)
    several = len({cell.nfe for cell in cells}) > 1
    bold = "Best of each NFE in bold." if several else "Best in bold."
    return Sheet(anchor, title, text, columns(subject, cells, axis), tuple(rows), notes.texts, best=bold)


def _bests(
    subject: Subject, cells: list[Cell], figures: Sequence[tuple[str, int, Published | None]]
) -> dict[Source, set[tuple[str, bool]]]:
    """Return :func:`_best` by whose runs: the user's and the shipped ones are not compared with each other."""
    return {one.source: _best(one, cells, figures) for one in (subject, subject.shipped) if one}


def _best(
    subject: Subject, cells: list[Cell], figures: Sequence[tuple[str, int, Published | None]]
) -> set[tuple[str, bool]]:
    """Return ids of the cells whose score is the lowest of their NFE, our own (False) and published (True).

    Args:
        subject: the table.
        cells: those that can be run.
        figures: id, NFE and published figure of those that are compared.
    """
    ours: dict[int, dict[str, float]] = {}
    theirs: dict[int, dict[str, float]] = {}
    for cell in cells:
        if (mean := subject.evidence[cell.id].mean) is not None:
            ours.setdefault(cell.nfe, {})[cell.id] = mean
    for cell_id, nfe, figure in figures:
        if figure:
            theirs.setdefault(nfe, {})[cell_id] = figure.value
    found = set()
    for published, by_nfe in ((False, ours), (True, theirs)):
        for values in by_nfe.values():
            if len(values) > 1:
                found.add((min(values, key=values.__getitem__), published))
    return found
