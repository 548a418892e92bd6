"""Writes a report as a LaTeX document with its fragments and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from tractbench.io.files import write_atomic
from tractbench.reports.chapters.chapter import Chapter
from tractbench.reports.chart import Chart
from tractbench.reports.document import Document
from tractbench.reports.latex.tables import latex_table, split
from tractbench.reports.latex.text import latex_text
from tractbench.reports.render import grid_files
from tractbench.reports.sheet import Sheet, slug

PACKAGES = ("booktabs", "siunitx", "graphicx", "array", "amssymb")
"""What the tables and figures need of LaTeX."""


def latex_tables(sheets: Sequence[Sheet], command: str) -> str:
    """Return tables as a fragment that a LaTeX document takes in by ``input``.

    Args:
        sheets: the tables; those without rows are left out.
        command: the command that makes the fragment, for its head.
    """
    return _latex_head(command) + "\n".join(
        latex_table(part) for sheet in sheets if sheet.rows for part in split(sheet)
    )


def _latex_head(command: str) -> str:
    """Return what every file begins with: what made it, what it needs."""
    needs = " ".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    return (
        f"% tractbench {version('tractbench')}: {' '.join(command.split())}\n"
        f"% For \\input; needs {needs}\n"
        "% and, from another folder, \\newcommand{\\tractbenchdir}{folder/} for the figures\n"
        "\\providecommand{\\tractbenchdir}{}\n"
    )


def write_latex(document: Document, folder: Path, command: str) -> None:
    """Write a document of its own, ``report.tex``, with one fragment for each table and the figures as PDF.

    Args:
        document: what it shows.
        folder: where to; files of these names are replaced.
        command: the command that makes it, for the head of each file.
    """
    body = []
    for chapter in document.chapters:
        name = slug(chapter.id.removeprefix("table-"))
        text = "".join(_latex_part(part, chapter.title, folder) for part in chapter.order)
        for nfe, files in grid_files(document.root, chapter):
            text += _latex_grids(chapter, nfe, files, folder)
        write_atomic(folder / f"{name}.tex", _latex_head(command) + text)
        intro = latex_text(chapter.intro)
        body.append(f"\\section{{{latex_text(chapter.title)}}}\n{intro}\n\\input{{{name}}}\n\\clearpage\n")
    if document.sheets:
        write_atomic(folder / "runs.tex", latex_tables(document.sheets, command))
        body.append("\\section{All runs}\n\\input{runs}\n")
    packages = "\n".join(rf"\usepackage{{{name}}}" for name in PACKAGES)
    write_atomic(
        folder / "report.tex",
        "\\documentclass[10pt]{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{lmodern}\n"
        "\\usepackage[a4paper,margin=2cm]{geometry}\n"
        f"{packages}\n\\setlength{{\\emergencystretch}}{{3em}}\n\\begin{{document}}\n"
        f"{''.join(body)}\\end{{document}}\n",
    )


def _latex_part(part: Sheet | Chart, title: str, folder: Path) -> str:
    """Return a table or figure whose caption tells which chapter it is of."""
    if isinstance(part, Sheet):
        titled = part.title if part.title == title else f"{title}: {part.title}"
        return "".join(latex_table(piece) for piece in split(replace(part, title=titled))) if part.rows else ""
    write_atomic(folder / f"{part.id}.pdf", part.pdf)
    return (
        "\\begin{figure}[htbp]\n  \\centering\n"
        f"  \\includegraphics[width=0.75\\linewidth]{{\\tractbenchdir {part.id}.pdf}}\n"
        f"  \\caption{{{latex_text(f'{title}: {part.caption}')}}}\n  \\label{{fig:{part.id}}}\n\\end{{figure}}\n"
    )


def _latex_grids(chapter: Chapter, nfe: int, files: Sequence[tuple[str, Path]], folder: Path) -> str:
    name = f"{slug(chapter.id.removeprefix('table-'))}-samples-{nfe}"
    cells = []
    for index, (title, path) in enumerate(files):
        write_atomic(folder / f"{name}-{index}.png", path.read_bytes())
        cells.append(
            "  \\begin{minipage}[t]{0.155\\linewidth}\\raggedright\\footnotesize\n"
            f"    \\includegraphics[width=\\linewidth]{{\\tractbenchdir {name}-{index}.png}}\\\\\n"
            f"    {latex_text(title)}\n  \\end{{minipage}}\\hspace{{0.01\\linewidth}}%\n"
        )
    caption = latex_text(f"{chapter.title}: samples from the same noise, {nfe} NFE.")
    return (
        f"\\begin{{figure}}[htbp]\n  \\raggedright\n{''.join(cells)}  \\caption{{{caption}}}\n"
        f"  \\label{{fig:{name}}}\n\\end{{figure}}\n"
    )
