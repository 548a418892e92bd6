"""A table of the paper as a chapter of the report: its cells, ablations, figures, claims and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from tractbench.claims.axes import Axis
from tractbench.claims.table import Table
from tractbench.reports.chapters.captions import intro
from tractbench.reports.chapters.cells import axis_sheet, main
from tractbench.reports.chapters.charts import against_nfe, axis_chart, errors_by_phase
from tractbench.reports.chapters.claims import claims
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.chart import Chart
from tractbench.reports.evidence import Evidence
from tractbench.reports.sheet import Sheet, slug
from tractbench.reports.verdicts.verdict import Verdict
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


def chapter(
    table: Table, evidence: Mapping[str, Evidence], verdicts: Mapping[str, Verdict], complete: bool = True
) -> Chapter:
    """Lay out a table.

    Args:
        table: the table.
        evidence: by cell id.
        verdicts: by cell or claim id.
        complete: show ablations of which there is nothing to compare yet, too.
    """
    subject = Subject(table, evidence, verdicts)
    order: list[Sheet | Chart] = [*main(subject), *claims(subject), *against_nfe(subject)]
    for axis in table.axes if complete else filter(partial(_comparable, subject), table.axes):
        order += [axis_sheet(subject, axis), *axis_chart(subject, axis)]
    order += errors_by_phase(subject)
    return Chapter(slug(f"table-{table.name}"), table.title, intro(subject), tuple(order), _samples(subject))


def _comparable(subject: Subject, axis: Axis) -> bool:
    """Whether an ablation has two places with a figure, published or our own."""
    cells = [subject.table.cells[point.cell] for point in axis.points]
    return sum(bool(cell.published or subject.evidence[cell.id].quoted) for cell in cells) > 1


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
