"""``tractbench report`` and ``tractbench list``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Json, Runs
from tractbench.errors import choose

FORMATS = ("html", "latex", "markdown", "csv")
LISTINGS = ("methods", "datasets", "runs")


def report(
    output: Annotated[str, typer.Option("--format", help="html, latex, markdown or csv.")] = "html",
    out: Annotated[
        Path | None, typer.Option(help="File to write. [default: report.html for html, standard output otherwise]")
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Only this tier.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Make the table method x NFE from all results: mean, spread, seeds, budget, parameters, evaluations.

    Examples:
      tractbench report --format html
      tractbench report --format latex --out table.tex
      tractbench report --format csv | column -s, -t
    """
    from tractbench.files import write_atomic
    from tractbench.reports.render import render
    from tractbench.results.store import Store

    output = choose(output, "format", FORMATS)
    text = render(Store(runs), output, tier=tier, dataset=dataset)
    path = Path("report.html") if out is None and output == "html" else out
    if path is None:
        print(text, end="")
    else:
        write_atomic(path, text)
        print(f"wrote {path}", file=sys.stderr)


def list_(
    what: Annotated[str, typer.Argument(help="methods, datasets or runs.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Methods: every option with its default.")] = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """List methods with their options, data sets with their tiers, or the runs so far."""
    from tractbench.console import print_table
    from tractbench.listing import list_datasets, list_methods, list_runs

    what = choose(what, "listing", LISTINGS)
    if what == "methods":
        listing = list_methods(verbose)
    elif what == "datasets":
        listing = list_datasets()
    else:
        listing = list_runs(runs)
    if as_json:
        print(json.dumps(listing.objects))
    else:
        print_table(listing.headers, listing.rows)
