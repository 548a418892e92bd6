"""A table of the paper as a chapter of the report: its cells, ablations, figures, claims and samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from tractbench.claims.axes import Axis
from tractbench.claims.table import Table
from tractbench.reports.chapters.captions import intro
from tractbench.reports.chapters.cells import axis_sheet, main
from tractbench.reports.chapters.charts import against_nfe, axis_chart, errors_by_phase
from tractbench.reports.chapters.claims import claims
from tractbench.reports.chapters.rankings import rankings
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.chart import Chart
from tractbench.reports.findings import Found
from tractbench.reports.sheet import Sheet, slug
from tractbench.results.record import Record


@dataclass(frozen=True)
class Sample:
    """Samples of one cell, drawn from the same noises as the others of its row."""

    title: str
    record: Record


@dataclass(frozen=True)
class Chapter:
    """What a report shows of a table; ``order`` are its sheets and charts as they follow each other."""

    id: str
    title: str
    intro: str
    order: tuple[Sheet | Chart, ...]
    samples: Mapping[int, Sequence[Sample]] = field(default_factory=dict)


def chapter(table: Table, found: Found, complete: bool = True) -> Chapter:
    """Lay out a table.

    Args:
        table: the table.
        found: what runs say of all tables.
        complete: show ablations of which there is nothing to compare yet, too.
    """
    subject = Subject(table, found)
    order: list[Sheet | Chart] = [*main(subject), *rankings(subject), *claims(subject), *_charts(against_nfe, subject)]
    for axis in table.axes if complete else filter(partial(_comparable, subject), table.axes):
        order += [axis_sheet(subject, axis), *_charts(partial(axis_chart, axis=axis), subject)]
    order += _charts(errors_by_phase, subject)
    return Chapter(slug(f"table-{table.name}"), table.title, intro(subject), tuple(order), _samples(subject))


def _charts(draw: Callable[[Subject], list[Chart]], subject: Subject) -> list[Chart]:
    """Return a chart by the user's runs and one by the shipped ones, if these have anything on it."""
    if not subject.shipped:
        return draw(subject)
    shipped = [
        replace(chart, id=f"{chart.id}-shipped", title=f"{chart.title or 'Score'}, shipped runs")
        for chart in draw(subject.shipped)
        if any(mark.ours is not None for mark in chart.marks)
    ]
    own = [chart for chart in draw(subject) if not shipped or any(mark.ours is not None for mark in chart.marks)]
    return own + shipped


def _comparable(subject: Subject, axis: Axis) -> bool:
    """Whether an ablation has two places with a figure, published or our own."""
    cells = [subject.table.cells[point.cell] for point in axis.points]
    some = [bool(c.published or any(one.evidence[c.id].quoted for one in subject.lines(c.id))) for c in cells]
    return sum(some) > 1


def _samples(subject: Subject) -> dict[int, list[Sample]]:
    """Return, for each NFE, a run of each row: the one of the lowest seeds."""
    by_nfe: dict[int, list[Sample]] = {}
    for cell in subject.table.cells.values():
        records = subject.evidence[cell.id].records
        if records and not cell.row.ablation:
            first = min(records, key=lambda record: (record.config.seed, record.config.sampling_seeds))
            by_nfe.setdefault(cell.nfe, []).append(Sample(cell.row.label, first))
    return {nfe: [sample for sample in samples if _drawn_alike(sample, samples[0])] for nfe, samples in by_nfe.items()}


def _drawn_alike(one: Sample, other: Sample) -> bool:
    """Whether both pictures start from the same noises."""
    return one.record.config.sampling_seeds[0] == other.record.config.sampling_seeds[0]
