"""A published figure as an entry, with its source and what its source does not say as footnotes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tractbench.claims.published import Figure, Published
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.sheet import ABSENT, Entry, Notes


def published_entry(subject: Subject, published: Published | None, best: bool, notes: Notes) -> Entry:
    """Return a cell's published figure."""
    if published is None:
        return Entry(ABSENT, math.inf)
    text = f"{published.value:g}"
    if published.error is not None:
        places = max(len(f"{figure:g}".partition(".")[2]) for figure in (published.value, published.error))
        text = f"{published.value:.{places}f} ± {published.error:.{places}f}"
    budget = []
    if published.budget != "same":
        budget = ["made at another budget" if published.budget == "other" else "its budget is not known"]
    return Entry(text, published.value, best, marks=source_marks(subject, published, notes, after=budget))


def source_marks(
    subject: Subject, figure: Figure, notes: Notes, before: Sequence[str] = (), after: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the footnotes of a figure: its source, what that does not say, or says otherwise than the cell."""
    parts = [*before]
    if figure.error is None:
        parts.append("printed without ±")
    if figure.aggregation == "unknown":
        parts.append("not said whether a mean or a minimum")
    elif figure.aggregation == "minimum" and figure.runs is None:
        parts.append("a minimum over a number of runs that is not said")
    elif figure.aggregation == "minimum":
        parts.append(
            f"the minimum over {figure.runs} runs ({figure.over}): ours is the mean of minima over as many, with the "
            "mean of all in brackets"
        )
    return notes.mark(subject.table.sources[figure.source], ", ".join([*parts, *after]), figure.note)
