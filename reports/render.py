"""Writes a report as HTML, Markdown or CSV."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tractbench.config.numbers import format_budget
from tractbench.reports.chapters.chapter import Chapter
from tractbench.reports.chapters.columns import cell_anchor
from tractbench.reports.curves import error_figure, loss_figure
from tractbench.reports.document import Document
from tractbench.reports.frames import run_frame, settings_text
from tractbench.reports.page import page_environment
from tractbench.reports.safe_text import markdown_paragraph, markdown_text, spreadsheet_safe
from tractbench.reports.sheet import Entry, Sheet, with_interval
from tractbench.reports.stored_files import intact_losses, intact_picture
from tractbench.reports.table_frame import table_frame
from tractbench.reports.verdicts.verdict import Compared
from tractbench.results.record import Record
from tractbench.results.store import GRID, LOSSES, PICTURE, TEACHER_GRID, student_file

# --- HTML


@dataclass(frozen=True)
class Grid:
    """A picture of samples: PNG in base 64, what stands under it, and what it shows in words."""

    title: str
    alt: str
    png: str


@dataclass(frozen=True)
class GridRow:
    """Pictures from the same noises, side by side."""

    title: str
    grids: list[Grid]


def render_html(document: Document, command: str) -> str:
    """Return a page that needs nothing from outside.

    Args:
        document: what it shows.
        command: the command that makes the page, for its foot.
    """
    environment = page_environment()
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, sort_keys=True)
    environment.globals |= {
        "anchor": cell_anchor,
        "infinity": math.inf,
        "ratio": _ratio,
        "zip": zip,
    }
    return environment.get_template("report.html").render(
        command=command,
        document=document,
        lineages=document.lineages,
        grids={chapter.id: grid_rows(document.root, chapter) for chapter in document.chapters},
        runs=[_run_view(document.root, record) for record in document.latest],
        not_shown=len(document.records) - len(document.latest),
    )


def _ratio(pair: Compared) -> str:
    return "" if pair.ratio is None else with_interval(pair.ratio, pair.interval)


def _run_view(root: Path, record: Record) -> dict[str, Any]:
    folder = root / record.folder
    picture = folder / PICTURE
    curve = student_file(folder, record.student, LOSSES)
    pictures = [(path, intact_picture) for path in (picture, folder / GRID, folder / TEACHER_GRID)]
    files = [*pictures, (curve, intact_losses)]
    config = record.config
    trained = [" → ".join(map(str, config.schedule)), format_budget(config.budget)] if config.schedule else []
    parts = [config.method, f"{config.nfe} NFE", *trained, settings_text(config), f"seed {config.seed}", config.tier]
    title = ", ".join(filter(None, parts))
    errors = record.distillation_errors
    return {
        "record": record,
        "title": title,
        "picture": base64.b64encode(picture.read_bytes()).decode() if intact_picture(picture) else None,
        "losses": loss_figure(curve) if intact_losses(curve) else None,
        "damaged": [path.name for path, sound in files if path.exists() and not sound(path)],
        "errors": error_figure(errors) if len(errors) > 1 else None,
        "errors_alt": "Mean squared distance to the teacher: "
        + "; ".join(f"{e.error:.3g} at {e.end} steps" for e in errors),
        "details": record.model_dump_json(indent=2),
    }


def grid_files(root: Path, chapter: Chapter) -> list[tuple[int, list[tuple[str, Path]]]]:
    """Return titles and files of samples from the same noises for each NFE: teachers in all steps, then each row."""
    rows = []
    for nfe, samples in sorted(chapter.samples.items()):
        teachers: dict[str, tuple[str, Path]] = {}
        own = []
        for sample in samples:
            folder = root / sample.record.folder
            if not intact_picture(folder / GRID) or not intact_picture(folder / TEACHER_GRID):
                continue
            config = sample.record.config
            teacher = f"teacher {config.teacher}, {config.grid_steps} steps"
            teachers.setdefault(config.teacher, (teacher, folder / TEACHER_GRID))
            own.append((sample.title, folder / GRID))
        if own:
            rows.append((nfe, [*teachers.values(), *own]))
    return rows


def grid_rows(root: Path, chapter: Chapter) -> list[GridRow]:
    """Return the pictures of :func:`grid_files` for a page."""
    return [
        GridRow(
            f"Samples from the same noise, {nfe} NFE",
            [
                Grid(title, f"Samples of {title} from the same noise", base64.b64encode(path.read_bytes()).decode())
                for title, path in files
            ],
        )
        for nfe, files in grid_files(root, chapter)
    ]


# --- Markdown and CSV


def render_markdown(document: Document) -> str:
    """Return the tables with captions and footnotes as Markdown."""
    parts = []
    for chapter in document.chapters:
        parts += [f"## {markdown_text(chapter.title)}", "", markdown_paragraph(chapter.intro), ""]
        parts += [render_sheet(part) for part in chapter.order if isinstance(part, Sheet)]
    parts += [render_sheet(sheet) for sheet in document.sheets]
    return "\n".join(parts)


def render_sheet(sheet: Sheet) -> str:
    """Return one table with its title, caption and footnotes as Markdown."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def shown(entry: Entry) -> str:
        text = markdown_text(entry.text)
        mark = f" ({','.join(entry.marks)})" if entry.marks else ""
        return (f"**{text}**" if entry.best else text) + mark

    title = f"### {markdown_text(sheet.title)}"
    caption = markdown_paragraph(sheet.legend)
    if not sheet.rows:
        return "\n".join([title, "", caption, ""])
    head = [line([markdown_text(c.title) for c in sheet.columns])]
    head.append(line(["---:" if c.number else "---" for c in sheet.columns]))
    rows = [line([shown(entry) for entry in row]) for row in sheet.rows]
    if sheet.foot:
        rows.append(line([f"*{markdown_text(entry.text)}*" if entry.text else "" for entry in sheet.foot]))
    notes = [f"({letter}) {markdown_text(text)}" for letter, text in sheet.notes.items()]
    return "\n".join([title, "", *head, *rows, "", caption, *(["", "; ".join(notes)] if notes else []), ""])


def render_csv(document: Document) -> str:
    """Return every run, or where tables were asked for every cell, as CSV with all digits."""
    named = not document.sheets
    frame = table_frame(document.tables, document.found) if named else run_frame(document.records, document.shipped)
    texts = frame.select_dtypes(include=["object", "string"]).columns
    frame[texts] = frame[texts].map(lambda value: spreadsheet_safe(value) if isinstance(value, str) else value)
    frame.columns = [spreadsheet_safe(str(name)) for name in frame.columns]  # a plugin's metrics have names of its own
    return frame.to_csv(index=False, lineterminator="\n")
