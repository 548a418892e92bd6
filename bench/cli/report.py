"""``tractbench report``."""

from __future__ import annotations

import gc
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli import completion
from tractbench.cli.options import Measured, Runs, Tables, store_or_note, warn_damaged, with_plugins, working
from tractbench.cli.output import print_utf8
from tractbench.errors import ConfigError, choose

FORMATS = ("html", "latex", "markdown", "csv")
DEFAULT_PATHS = {"html": Path("report.html"), "latex": Path("report-latex")}


@with_plugins
def report(
    output: Annotated[
        str,
        typer.Option(
            "--format", help="html, latex, markdown or csv.", autocompletion=completion.completing(lambda: FORMATS)
        ),
    ] = "html",
    table: Annotated[
        str | None,
        typer.Option(
            help="Only this table of the paper, run or not: cifar10, imagenet64, digits, ...",
            autocompletion=completion.table,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All tables of the paper, run or not.")] = False,
    tier: Annotated[str | None, typer.Option(help="Only this tier.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.", autocompletion=completion.dataset)] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, '-' for standard output; for latex a folder, or a .tex file for the tables alone.",
            show_default="report.html, report-latex/, else standard output",
        ),
    ] = None,
    tables: Tables = None,
    measured: Measured = True,
    runs: Runs = Path("runs"),
) -> None:
    """Write the paper's tables, ablations and claims beside what the runs say: published, ours, interval, verdict.

    Shown are the tables that any run touches, then all runs; with --table
    or --all those tables, run or not. csv holds a row for each run, with
    --table or --all a row for each cell. latex is a folder: report.tex,
    which compiles by itself, a fragment for each table, figures as PDF.
    What the suite itself measured comes with tractbench and stands beside
    your runs, in lines of its own.

    Examples:
      tractbench report
      tractbench report --table cifar10 --format markdown
      tractbench report --all --format latex --out paper/tables
      tractbench report --format csv > runs.csv
    """
    output = choose(output, "format", FORMATS)
    if table and every:
        raise ConfigError(f"--table {table} and --all: one table or all of them; leave one of the two out")
    with working("gathering runs and drawing figures"):
        written = _write(output, table, every, tier, dataset, out, tables, measured, runs)
    if isinstance(written, Path):
        print(f"wrote {written}", file=sys.stderr)
    elif output == "markdown":
        print(written, end="")
    else:  # csv, html and latex are UTF-8 wherever they go
        print_utf8(written)


def _write(
    output: str,
    table: str | None,
    every: bool,
    tier: str | None,
    dataset: str | None,
    out: Path | None,
    tables: Path | None,
    measured: bool,
    runs: Path,
) -> Path | str:
    """Make a report; return the file it went to, or the text that is for standard output."""
    from tractbench.claims.loading import load_tables
    from tractbench.io.files import write_atomic
    from tractbench.reports import render
    from tractbench.reports.document import Selection, compose
    from tractbench.reports.latex.document import latex_tables, write_latex
    from tractbench.results.measured import shipped_records
    from tractbench.results.store import Store

    selection = Selection(table, every, tier, dataset)
    shipped = shipped_records() if measured else []
    store = store_or_note(runs, bool(shipped)) if selection.names_tables or shipped else Store(runs)
    try:
        document = compose(store, load_tables(tables), selection, shipped)
    finally:
        warn_damaged(store)
    command = shlex.join(["tractbench", *sys.argv[1:]])
    gc.freeze()  # what was read stays to the end of the process: no use in looking through it for garbage
    path = out or DEFAULT_PATHS.get(output)
    if output == "latex" and path is not None and str(path) != "-" and path.suffix != ".tex":
        write_latex(document, path, command)
        return path / "report.tex"
    if output == "html":
        text = render.render_html(document, command)
    elif output == "latex":
        text = latex_tables(document.every_sheet, command)
    else:
        text = render.render_markdown(document) if output == "markdown" else render.render_csv(document)
    if path is None or str(path) == "-":
        return text
    write_atomic(path, text)
    return path
