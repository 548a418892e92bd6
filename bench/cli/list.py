"""``tractbench list``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli import completion
from tractbench.cli.options import Json, Runs, warn_damaged, with_any_plugins
from tractbench.cli.output import to_json
from tractbench.errors import choose
from tractbench.plugins import WORDS, Kind

KINDS: Mapping[str, Kind] = {kind: kind for kind in WORDS}
LISTINGS = (*KINDS, "runs")


@with_any_plugins
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="methods, datasets, extractors, networks, processes, workloads or runs.",
            autocompletion=completion.completing(lambda: LISTINGS),
        ),
    ],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Methods: every option with its default.")] = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """List methods with their options, data sets with their tiers, other components, or the runs so far.

    A component that cannot be loaded is named with the reason.
    """
    from tractbench.cli.console import print_table
    from tractbench.cli.listings import list_components, list_datasets, list_methods, list_runs
    from tractbench.plugins import complaints
    from tractbench.results.store import Store

    what = choose(what, "listing", LISTINGS)
    if what == "methods":
        listing = list_methods(verbose)
    elif what == "datasets":
        listing = list_datasets()
    elif what in KINDS:
        listing = list_components(KINDS[what])
    else:
        store = Store(runs)
        listing = list_runs(store)
        warn_damaged(store)
    for complaint in complaints() if what in KINDS else ():
        print(f"tractbench: {complaint}", file=sys.stderr)
    if as_json:
        print(to_json(listing.objects))
    else:
        print_table(listing.headers, listing.rows)
