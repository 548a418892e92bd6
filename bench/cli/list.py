"""``tractbench list``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Json, Runs, warn_damaged
from tractbench.cli.output import to_json
from tractbench.errors import choose

LISTINGS = ("methods", "datasets", "runs")


def list_(
    what: Annotated[str, typer.Argument(help="methods, datasets or runs.")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Methods: every option with its default.")] = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """List methods with their options, data sets with their tiers, or the runs so far."""
    from tractbench.cli.console import print_table
    from tractbench.cli.listings import list_datasets, list_methods, list_runs
    from tractbench.results.store import Store

    what = choose(what, "listing", LISTINGS)
    if what == "methods":
        listing = list_methods(verbose)
    elif what == "datasets":
        listing = list_datasets()
    else:
        store = Store(runs)
        listing = list_runs(store)
        warn_damaged(store)
    if as_json:
        print(to_json(listing.objects))
    else:
        print_table(listing.headers, listing.rows)
