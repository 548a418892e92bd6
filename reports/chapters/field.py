"""What tables of the field have beside the figures: other sources, what a method trains with, and rows not run here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from tractbench.claims.published import Published
from tractbench.claims.rows import CellData, Row
from tractbench.claims.table import Table
from tractbench.reports.chapters.published import published_entry, source_marks
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.sheet import ABSENT, Column, Entry, Notes


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


TRAITS: Mapping[str, Callable[[Row], str]] = {
    "Discriminator": lambda row: _yes(row.discriminator),
    "LPIPS": lambda row: _yes(row.lpips),
    "Backbone": lambda row: row.backbone,
    "Pixels": lambda row: row.pixels,
    "Other data": lambda row: row.data,
}
"""Columns about a published method, and what stands in them."""


def _traits(table: Table) -> list[str]:
    """Return the columns in which something stands."""
    return [title for title, trait in TRAITS.items() if any(trait(row) for row in table.rows)]


def trait_columns(table: Table) -> list[Column]:
    """Return the columns about published methods that a table fills."""
    return [Column(title, False) for title in _traits(table)]


def trait_entries(table: Table, row: Row) -> list[Entry]:
    """Return the entries of :func:`trait_columns`."""
    return [Entry(text or ABSENT, text or "~") for text in (TRAITS[title](row) for title in _traits(table))]


def has_others(table: Table) -> bool:
    """Whether a figure of the table has other sources."""
    return any(data.published and data.published.others for row in table.rows for data in row.cells)


def others_entry(subject: Subject, published: Published | None, notes: Notes) -> Entry:
    """Return independent reproductions and what others print, each with its source as a footnote."""
    others = published.others if published else ()
    if not others:
        return Entry(ABSENT, math.inf)
    marks = (source_marks(subject, other, notes, [other.kind]) for other in others)
    texts = [f"{other.value:g}" for other in others]
    return Entry("; ".join(texts), others[0].value, marks=tuple(dict.fromkeys(mark for each in marks for mark in each)))


def cited_entries(subject: Subject, row: Row, data: CellData, best: bool, notes: Notes) -> list[Entry]:
    """Return the entries of a row that cannot be run here: its published figures, and why."""
    published = data.published
    none = Entry(ABSENT, math.inf)
    parameters = Entry(f"{row.parameters:g}", row.parameters) if row.parameters else none
    return [
        *([Entry(ABSENT, "~")] if subject.shipped else []),
        published_entry(subject, published, best, notes),
        *([others_entry(subject, published, notes)] if has_others(subject.table) else []),
        Entry("not run here", math.inf, marks=notes.mark(row.cannot)),
        none,
        Entry("0", 0),
        *([Entry(ABSENT, "~")] if subject.repeats else []),
        none,
        Entry(ABSENT, "~"),
        parameters,
        none,
        none,
        *trait_entries(subject.table, row),
    ]
