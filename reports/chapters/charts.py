"""Charts of a table: along its ablations, against the number of network evaluations, after each phase."""

from __future__ import annotations

import statistics
from dataclasses import replace

from tractbench.claims.axes import Axis
from tractbench.claims.rows import Cell
from tractbench.reports.chapters.captions import sentence
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.chart import Chart, Mark
from tractbench.reports.sheet import slug
from tractbench.results.statistics import difference

AXIS_TITLES = {
    "mu_s": "self-teacher momentum",
    "mu_i": "momentum of the inference average",
    "budget": "training images",
    "parameters": "parameters, millions",
}
"""How settings are called under an axis; others go by their own names."""

SCALES = {"budget": "log", "nfe": "log", "parameters": "linear"}


def _mark(subject: Subject, cell: Cell, x: float | str, line: str) -> Mark:
    mark = _measured(line, x, list(subject.evidence[cell.id].quoted.values()))
    if cell.published is None:
        return mark
    return replace(mark, published=cell.published.value, published_error=cell.published.error)


def axis_chart(subject: Subject, axis: Axis) -> list[Chart]:
    """Return an ablation's figure, if there is anything to show."""
    marks = [_mark(subject, subject.table.cells[point.cell], point.x, point.line) for point in axis.points]
    title, scale = AXIS_TITLES.get(axis.x, axis.x), SCALES.get(axis.x, "names")
    anchor = slug(f"{subject.table.name}-{axis.id}")
    return _shown(Chart(anchor, axis.title, title, subject.metric, tuple(marks), axis.x, scale, sentence(axis.note)))


def against_nfe(subject: Subject) -> list[Chart]:
    """Return the score against the number of network evaluations, if any row has two."""
    rows = [row for row in subject.table.rows if not row.ablation]
    if not any(len(row.cells) > 1 for row in rows):
        return []
    cells = [cell for cell in subject.table.cells.values() if not cell.row.ablation]
    marks = [_mark(subject, c, c.nfe, c.row.label) for c in sorted(cells, key=lambda cell: cell.nfe)]
    anchor = slug(f"{subject.table.name}-nfe")
    return _shown(Chart(anchor, "", "network evaluations", subject.metric, tuple(marks), "nfe", "log"))


def errors_by_phase(subject: Subject) -> list[Chart]:
    """Return the distillation error after each phase, once for each method and schedule, in the fewest steps."""
    fewest = min(cell.nfe for cell in subject.table.cells.values())
    seen: set[tuple[str, str, tuple[int, ...]]] = set()
    marks: list[Mark] = []
    for cell in subject.table.cells.values():
        records = subject.evidence[cell.id].records
        if cell.nfe != fewest or not records or not records[0].config.schedule:
            continue
        config = records[0].config
        key = (config.method, config.process, config.schedule)
        if key in seen:
            continue
        seen.add(key)
        for number, phase in enumerate(records[0].distillation_errors):
            values = list({r.config.seed: r.distillation_errors[number].error for r in records}.values())
            marks.append(_measured(cell.row.label, phase.end, values))
    title, note = (
        "Distillation error after each phase",
        "To the method's own teacher, same noises.",
    )
    anchor, y_title = slug(f"{subject.table.name}-errors"), "mean squared distance"
    return _shown(Chart(anchor, title, "steps left", y_title, tuple(marks), "steps", "steps", note))


def _measured(line: str, x: float | str, values: list[float]) -> Mark:
    """Return a place of a chart with the mean of one value for each training seed."""
    own = difference(values)
    return Mark(line, x, statistics.fmean(values) if values else None, own.interval() if own else None, len(values))


def _shown(chart: Chart) -> list[Chart]:
    """Return a chart, none if it would not have two places to compare."""
    return [chart] if sum((mark.ours, mark.published) != (None, None) for mark in chart.marks) > 1 else []
