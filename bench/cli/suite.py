"""``tractbench suite``."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli import completion
from tractbench.cli.interrupts import interrupts
from tractbench.cli.looks import make_until_decided, next_choice
from tractbench.cli.options import (
    CheckpointEvery,
    Device,
    Json,
    Quiet,
    Runs,
    Tables,
    checkpoint_seconds,
    chosen_device,
    parse_duration,
    with_plugins,
)
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError, choose

if TYPE_CHECKING:
    from tractbench.pipeline.suite import Options, Suite
    from tractbench.pipeline.suite_cells import Choice
    from tractbench.pipeline.suite_engine import Engine
    from tractbench.results.store import Store

FAILED = 1
INTERRUPTED = 75
SLURM_JOBS = 16


@with_plugins
def suite(
    table: Annotated[
        list[str] | None,
        typer.Option(
            help="Table: digits, cifar10, ...; repeatable.", show_default=False, autocompletion=completion.table
        ),
    ] = None,
    tables: Tables = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=PATTERN", help="Only cells by row, nfe, cell, method, axis or claim; repeatable."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Training seeds, 0-4 or 0,2, instead of the table's.")] = None,
    tier: Annotated[str | None, typer.Option(help="Another tier than the table's, such as smoke, to try it.")] = None,
    executor: Annotated[str, typer.Option(help="local or slurm.")] = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="Jobs at a time; 1, or 16 on a cluster.")] = None,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="Make look after look, of what is not decided."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run and what is missing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before.")] = False,
    max_failures: Annotated[int | None, typer.Option(min=1, help="Begin nothing more after so many failures.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Say how the suites of these results stand.")] = False,
    register: Annotated[bool, typer.Option("--register", help="Write the plan down before it is run.")] = False,
    looks: Annotated[str | None, typer.Option(help="With --register: numbers of seeds at which you will look.")] = None,
    pack: Annotated[str | None, typer.Option(help="How long a job begins further runs: 2m; 30m on Slurm.")] = None,
    checkpoint_every: CheckpointEvery = None,
    slurm: Annotated[Path | None, typer.Option(help="TOML file with a table 'slurm'.", show_default=False)] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm partition.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm account.")] = None,
    time: Annotated[str | None, typer.Option(help="Longest time of a Slurm job: 4h.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs on each node of a Slurm job.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes of a Slurm job.")] = None,
    constraint: Annotated[str | None, typer.Option(help="Features that Slurm nodes must have.")] = None,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make every run that tables want and these results lack, in processes of this machine or on a Slurm cluster.

    The same command goes on after any end. Ctrl-C lets all runs save and
    stop. Exit status: 0 if all are there, 1 if a run failed or cannot be
    made here, 75 if it was interrupted. --json prints a JSON object a line
    for every change. See docs/suite.md.

    Examples:
      tractbench suite --table digits --jobs 2
      tractbench suite --table digits --only 'row=tract-*' --only nfe=1 --seeds 0-4 --dry-run
      tractbench suite --table digits --until-decided
      tractbench suite --table cifar10 --executor slurm --slurm cluster.toml --jobs 32
      tractbench suite --status
    """
    from tractbench.cli.suite_display import print_dry_run, print_status
    from tractbench.pipeline.suite_status import suites
    from tractbench.results.store import Store

    store = Store(runs, create=True)
    if status:
        print_status(suites(store), as_json)
        return 0
    choice = _choice(table, tables, only, seeds, tier)
    if until_decided and (seeds or tier or register):
        raise ConfigError("--until-decided takes seeds and tier from the tables' looks; leave out --seeds, --tier and "
                          "--register")  # fmt: skip
    if register:
        return _register(choice, store, looks, as_json)
    if dry_run:
        following = next_choice(choice, tables, store)[1] if until_decided else choice
        if following:
            print_dry_run(following, store, as_json)
        else:
            print("no look is left: all is decided, or its last look was taken")
        return 0
    store.require_writable()
    kind = choose(executor, "executor", ("local", "slurm"))
    count = jobs or (SLURM_JOBS if kind == "slurm" else 1)
    flags: dict[str, object] = {"partition": partition, "account": account, "gpus": gpus, "nodes": nodes,
                                "constraint": constraint, "time": time and max(1, int(parse_duration(time) / 60)),
                                "pack": pack and parse_duration(pack) / 60}  # fmt: skip

    def engine(folder: Path) -> tuple[Engine, float]:
        """Return what runs the jobs, and how many seconds one of them begins further runs."""
        from tractbench.pipeline.suite_engine import LocalEngine, SlurmEngine, read_slurm

        if kind == "local":
            return LocalEngine(folder, count, _gpus(device)), parse_duration(pack or "2m")
        settings = read_slurm(slurm, flags)
        return SlurmEngine(folder, count, settings), settings.pack * 60

    from tractbench.pipeline.suite import Options

    every = checkpoint_seconds(checkpoint_every)
    chosen = device if kind == "slurm" else chosen_device(device)
    options = Options(count, 0.0, retry_failed, max_failures, chosen, every)
    if until_decided:
        make = partial(_make, store=store, options=options, engine=engine, as_json=as_json, quiet=quiet)
        return make_until_decided(choice, tables, store, make, as_json)
    return _make(choice, store, options, engine, as_json, quiet)


def _choice(
    table: list[str] | None, tables: Path | None, only: list[str] | None, seeds: str | None, tier: str | None
) -> Choice:
    from tractbench.claims.loading import find_table, load_tables
    from tractbench.config.numbers import parse_integers
    from tractbench.pipeline.suite_cells import Choice

    known = load_tables(tables)
    if not table:
        raise ConfigError(f"no table given; add --table NAME: {', '.join(known)}")
    try:
        numbers = parse_integers(seeds)
    except ValueError as error:
        raise ConfigError(f"seeds {seeds!r}: {error}") from error
    given = numbers if isinstance(numbers, tuple) else None
    chosen = tuple(find_table(known, name) for name in dict.fromkeys(table))
    return Choice(chosen, tuple(only or ()), None if given is None else tuple(dict.fromkeys(given)), tier)


def _gpus(device: str) -> int:
    """Return how many GPUs local jobs share out among them."""
    if chosen_device(device) != "cuda":
        return 0
    import torch

    return torch.cuda.device_count()


def _register(choice: Choice, store: Store, looks: str | None, as_json: bool) -> int:
    from tractbench.config.numbers import parse_integers
    from tractbench.pipeline.suite_plan import make_plans
    from tractbench.results.plans import register

    try:
        numbers = parse_integers(looks)
    except ValueError as error:
        raise ConfigError(f"looks {looks!r}: {error}") from error
    store.make()
    for plan in make_plans(choice, numbers if isinstance(numbers, tuple) else ()):
        registered = register(store.root, plan)
        if as_json:
            print(to_json({"table": plan.table, "sha256": registered.sha256, "registered": registered.registered}))
        else:
            count = sum(len(cell.runs) for cell in plan.cells.values())
            print(f"{plan.table}: {count} runs, plan {registered.sha256}, registered {registered.registered}")
    return 0


def _make(
    choice: Choice,
    store: Store,
    options: Options,
    engine: Callable[[Path], tuple[Engine, float]],
    as_json: bool,
    quiet: bool,
) -> int:
    """Make the runs of a choice, show how they stand, and return the exit status."""
    from tractbench.cli.suite_display import display
    from tractbench.pipeline.suite import Suite
    from tractbench.pipeline.suite_cells import wanted_cells
    from tractbench.pipeline.suite_status import StatusFile, SuiteStatus, tidy
    from tractbench.training.parallel import ALONE

    now, host = datetime.now(UTC), socket.gethostname()
    base = SuiteStatus(command=shlex.join(["tractbench", *sys.argv[1:]]), host=host, pid=os.getpid(),
                       started=now.isoformat(timespec="seconds"))  # fmt: skip
    with interrupts(ALONE) as stop, store.lock_suite(f"{now:%Y%m%dT%H%M%S}-{host}-{os.getpid()}") as folder:
        made, seconds = engine(folder)
        cells, unmet = wanted_cells(choice)
        whole = Suite(cells, store, folder, replace(options, pack_seconds=seconds))
        impossible = sum(one.runs for one in unmet)
        file = StatusFile(folder)
        with display(as_json, quiet) as show:

            def watch(suite: Suite) -> None:
                seen = base.seen(suite, impossible)
                file.write(seen)
                show.changes(suite, seen)

            try:
                whole.make(made, stop, watch)
                interrupted = stop()
            except KeyboardInterrupt:  # the second one: jobs were asked once more, and stop without us
                interrupted = True
        seen = base.seen(whole, impossible)
        file.write(seen, last=True)
        lacking = len(whole.entries) - len(whole.of("done"))
        code = 0 if not lacking + impossible else INTERRUPTED if interrupted else FAILED
        show.summary(whole, seen, unmet, code)
        if not lacking:
            tidy(folder)
        return code
