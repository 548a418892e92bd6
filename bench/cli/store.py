"""``tractbench store``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tractbench.cli.options import Json, Quiet, Runs, progress, warn_damaged
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError
from tractbench.io.cache import in_home

store_app = typer.Typer(help="The folder of all results: check it, mend it, bring others in.", no_args_is_help=True)

WRONG = 1


@store_app.command("check")
def store_check(
    mend: Annotated[
        bool,
        typer.Option("--repair", help="Mend what can be mended; damaged files go to 'damaged/', none are deleted."),
    ] = False,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """List what is wrong with the results: damaged records and weights, runs that did not end, a stale index.

    With --repair, a store of an older format is moved to the current one
    too; killed, it is finished by the same command. Other verbs pass over
    what is damaged, say so on standard error and exit as they would
    without it.
    Exit status: 0 if nothing is wrong, 1 if something is or remains so.

    Examples:
      tractbench store check
      tractbench store check --repair --runs old-runs
    """
    from tractbench.results.check import check, repair
    from tractbench.results.store import Store

    bar = progress(quiet)
    store = Store(runs)
    done = repair(store, bar) if mend else []
    store = Store(runs)
    problems = check(store, bar, read_students=not mend)
    if as_json:
        print(to_json({"format": store.format, "done": done, "problems": [asdict(one) for one in problems]}))
    else:
        for line in done:
            print(line)
        for problem in problems:
            print(f"{problem.kind:15} {problem.path}: {problem.detail}")
        if not problems:
            print(f"{runs}: nothing is wrong")
    return WRONG if problems else 0


@store_app.command("ship")
def store_ship(
    stores: Annotated[list[Path], typer.Argument(metavar="STORE...", help="Results folders to take runs from.")],
    into: Annotated[Path, typer.Option("--into", help="File to write, such as tables/measured/digits.jsonl.")],
    add: Annotated[bool, typer.Option("--add", help="Keep the runs that the file holds already.")] = False,
    quiet: Quiet = False,
) -> int:
    """Write the runs of results folders as a file of measured results, as they come with tractbench.

    One sealed record a line, in an order that no machine decides, with
    the kind of machine and the versions, without its paths. A run that
    failed, never ended, is damaged, of other versions or not true to its
    protocol is named, and then nothing is written.
    Exit status: 0, or 1 if a run was refused.

    Examples:
      tractbench suite --table digits
      tractbench store ship runs --into tables/measured/digits.jsonl
      tractbench store ship more-runs --into tables/measured/digits.jsonl --add
    """
    from tractbench.results.measured import records_of
    from tractbench.results.ship import gather_shipment, write_shipment
    from tractbench.results.store import Store

    shipment = gather_shipment([Store(store) for store in stores], records_of(into) if add and into.exists() else ())
    for line in shipment.refused:
        print(f"tractbench: refused {line}", file=sys.stderr)
    if shipment.refused:
        return WRONG
    write_shipment(shipment, into)
    if not quiet:
        print(f"{into}: {len(shipment.records)} run{'s' * (len(shipment.records) != 1)}")
    return 0


@store_app.command("merge")
def store_merge(
    others: Annotated[list[Path], typer.Argument(metavar="OTHER...", help="Results folders to copy from.")],
    into: Annotated[
        Path,
        typer.Option("--into", "--runs", envvar="TRACTBENCH_HOME", help="Results folder to copy to.", callback=in_home),
    ] = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Copy the runs of other results folders into one, students included; what is here already is skipped.

    A run that is here with other scores is refused and named, and the
    others go on. A done run replaces a failed one. Killed, it is finished
    by the same command.
    Exit status: 0, or 1 if a run was refused.

    Examples:
      tractbench store merge cluster-a/runs cluster-b/runs
      tractbench store merge laptop --into all
    """
    from tractbench.results.merge import merge
    from tractbench.results.store import Store

    for other in others:
        if other.resolve() == into.resolve():
            raise ConfigError(f"{other}: it would be merged into itself; name another folder with --into")
    store, found = Store(into, create=True), [Store(other) for other in others]
    merged = merge(store, found, progress(quiet))
    for one in found:
        warn_damaged(one)
    for line in merged.refused:
        print(f"tractbench: refused {line}", file=sys.stderr)
    if as_json:
        print(to_json({"into": str(into), **asdict(merged)}))
    elif not quiet:
        counts = ", ".join(f"{len(folders)} {name}" for name, folders in asdict(merged).items())
        print(f"{into}: {counts}")
    return WRONG if merged.refused else 0
