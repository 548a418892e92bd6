"""Columns of tables of cells, and their entries."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tractbench.claims.axes import Axis
from tractbench.claims.rows import Cell
from tractbench.config.numbers import format_budget
from tractbench.reports.chapters.charts import AXIS_TITLES
from tractbench.reports.chapters.field import has_others, others_entry, trait_columns, trait_entries
from tractbench.reports.chapters.published import published_entry
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.findings import Source
from tractbench.reports.machines import machines
from tractbench.reports.sheet import ABSENT, Column, Entry, Notes, decimals, slug, with_interval, with_spread
from tractbench.reports.verdicts.repeats import Repeat
from tractbench.reports.verdicts.verdict import Verdict
from tractbench.results.record import Record

ANSWERS = {"yes": "✓ yes", "no": "✗ no", "undecided": "? undecided", "other files": "≠ other files"}
"""Whether a shipped result was reproduced, likewise with a sign beside the word."""

SIGNS = {"reproduced": "✓", "contradicted": "✗", "inconclusive": "?", "not run": "○", "budget differs": "≠"}
"""Beside the word, so that no verdict is told by colour alone."""


def cell_anchor(name: str, source: Source = "yours") -> str:
    """Return the anchor of what stands behind a cell or claim, by whose runs."""
    return slug(f"behind-{name}" if source == "yours" else f"behind-{name}-{source}")


def hours_title(records: Iterable[Record]) -> str:
    """Return the unit of training times: hours of what they were made on."""
    on_gpu = {record.environment.get("device", "cpu") != "cpu" for record in records}
    return "GPU-hours" if on_gpu == {True} else "CPU-hours" if on_gpu == {False} else "Hours"


def columns(subject: Subject, cells: Sequence[Cell], axis: Axis | None = None) -> tuple[Column, ...]:
    """Return the columns of a table of cells; after those that say which cell it is, :func:`entries` fills them."""
    lines = axis is not None and len(axis.lines) > 1
    hours = hours_title(r for cell in cells for one in subject.lines(cell.id) for r in one.evidence[cell.id].records)
    return (
        Column(AXIS_TITLES.get(axis.x, axis.x).capitalize() if axis else "Method", False),
        *([Column("NFE")] if axis is None else [Column("Series", False)] if lines else []),
        *runs_column(subject),
        *([Column(f"{subject.metric}, published")] if subject.published else []),
        *([Column("By others")] if has_others(subject.table) else []),
        Column(f"{subject.metric}, ours"),
        Column("Sampling std"),
        Column("n"),
        *([Column("On your machine", False)] if subject.repeats else []),
        *([Column("Difference, 95%"), Column("Verdict", False)] if subject.published else []),
        Column("Parameters, M"),
        *([Column("Budget")] if has_budget(axis) else []),
        Column(hours),
        *trait_columns(subject.table),
    )


def runs_column(subject: Subject) -> list[Column]:
    """Return the column that says whose runs a line is of; none where all are the user's."""
    return [Column("Runs", False)] if subject.shipped else []


def runs_entry(one: Subject, name: str, records: Sequence[Record], notes: Notes) -> list[Entry]:
    """Return whose runs the line of a cell or claim is of, with the kind of machine and the versions as a footnote."""
    if not one.shipped:
        return []
    if not one.says(name):
        return [Entry(ABSENT, "~")]
    return [Entry(one.source, one.source, marks=notes.mark(f"{one.source}: {machines(records)}" if records else ""))]


def _repeat_entry(one: Subject, repeat: Repeat | None, notes: Notes) -> Entry:
    if repeat is None or one.source == "shipped":
        return Entry(ABSENT, "~")
    return Entry(ANSWERS[repeat.answer], repeat.answer, marks=notes.mark(str(repeat)))


def has_budget(axis: Axis | None) -> bool:
    """Whether the budget has a column; along its own axis it stands in front."""
    return axis is None or axis.x != "budget"


def entries(subject: Subject, cell: Cell, best: set[tuple[str, bool]], notes: Notes, budget: bool) -> list[Entry]:
    """Return the entries that every sheet of cells has.

    Args:
        subject: the table by whose runs the line is.
        cell: the cell.
        best: ids of cells whose score is the lowest, our own (False) and published (True).
        notes: takes the footnotes.
        budget: whether the budget has a column.
    """
    evidence, verdict = subject.evidence[cell.id], subject.verdicts.get(cell.id)
    target = cell_anchor(cell.id, subject.source)
    spread = evidence.spread
    entries = runs_entry(subject, cell.id, evidence.records, notes)
    if subject.published:
        entries.append(published_entry(subject, cell.published, (cell.id, True) in best, notes))
        entries += [others_entry(subject, cell.published, notes)] if has_others(subject.table) else []
    if spread is None:
        marks = notes.mark(evidence.missing if evidence.budgets else "", *evidence.notes)
        text = evidence.missing if evidence.failed else "not run"
        entries += [Entry(text, math.inf, target=target, marks=marks), Entry(ABSENT, math.inf), Entry("0", 0)]
    else:
        mean, text = evidence.mean, with_spread(evidence.mean, evidence.training_std)
        if verdict and verdict.mean is not None and verdict.estimate is not None:
            mean, text = verdict.estimate, f"{verdict.estimate:.3f} (mean {text})"
        marks = notes.mark(*evidence.notes)
        entries.append(Entry(text, mean or 0.0, (cell.id, False) in best, target, marks))
        sampling = spread.sampling
        entries.append(Entry(*number(sampling, f".{decimals(sampling)}f")))
        entries.append(Entry(str(spread.n), spread.n))
    entries += [_repeat_entry(subject, subject.repeats.get(cell.id), notes)] if subject.repeats else []
    if subject.published:
        said = (verdict.wide, str(verdict.looks or ""), str(verdict.plan or "")) if verdict else ()
        entries += [_difference(verdict), replace(ruling(verdict, target), marks=notes.mark(*said))]
    hours = [record.training.seconds / 3600 for record in evidence.records]
    entries += [
        _parameters(subject, cell, notes),
        *([Entry(*_budget(cell))] if budget else []),
        _hours(hours),
        *trait_entries(subject.table, cell.row),
    ]
    return entries


def _difference(verdict: Verdict | None) -> Entry:
    if verdict is None or verdict.difference is None:
        return Entry(ABSENT, math.inf)
    return Entry(with_interval(verdict.difference, verdict.difference_95), verdict.difference)


def ruling(verdict: Verdict | None, target: str) -> Entry:
    """Write a verdict with its sign and the seeds that it still needs."""
    if verdict is None:
        return Entry(ABSENT, "~")
    more = f" (+{verdict.further_seeds})" if verdict.further_seeds else ""
    return Entry(f"{SIGNS[verdict.verdict]} {verdict.verdict}{more}", verdict.verdict, target=target)


def _parameters(subject: Subject, cell: Cell, notes: Notes) -> Entry:
    """Return parameters in millions, our network's where there is one, with a note where the published differ."""
    records, published = subject.evidence[cell.id].records, cell.row.parameters
    ours = records[-1].parameters if records else None
    if ours is None:
        return Entry(*number(published, "g"))
    text = f"{ours / 1e6:.3g}"
    differs = published is not None and f"{published:.3g}" != text
    return Entry(text, ours / 1e6, marks=notes.mark(f"published: {published:g}M parameters") if differs else ())


def _budget(cell: Cell) -> tuple[str, float]:
    images = cell.config.budget
    return (format_budget(images), images) if images else (ABSENT, math.inf)


def _hours(hours: Sequence[float]) -> Entry:
    """Return the mean of training times, to two figures."""
    mean = statistics.fmean(hours) if any(hours) else None
    return Entry(*number(mean, ".2g" if mean is None or mean < 10 else ".0f"))


def number(value: float | None, form: str) -> tuple[str, float]:
    """Return a number's text and what it is sorted by; none sorts last."""
    return (ABSENT, math.inf) if value is None else (format(value, form), value)
