"""``tractbench demo``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli.interrupts import interrupts
from tractbench.cli.options import Device, Measured, Quiet, Runs, chosen_device, progress, with_plugins
from tractbench.cli.output import print_utf8

if TYPE_CHECKING:
    from tractbench.progress import Progress
    from tractbench.results.store import Store

STUDENTS = (("tract", "digits"), ("btd", "digits"), ("tract", "mixture2d"))
"""What ``--train`` runs, each with one network evaluation."""


@with_plugins
def demo(
    out: Annotated[Path, typer.Option(help="File to write; '-' for standard output.")] = Path("demo.html"),
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    train: Annotated[
        bool,
        typer.Option("--train", help="First run TRACT and BTD on digits and TRACT on mixture2d in one step: minutes."),
    ] = False,
    measured: Measured = True,
    runs: Runs = Path("runs"),
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Write a page to play with: from one noise, what every method makes of it with as many evaluations as you give.

    A slider spends 1 to 1,024 network evaluations on the same noise: the
    shipped teacher of digits, and every student of digits that your
    results folder has, by method, NFE and seed, beside its distances
    (yours, and those that ship with tractbench). Below, the ways of points
    from noise to the eight modes of mixture2d: the ODE's, and those of
    its exact teacher in few steps and of your students, which err.

    The page is one file that needs no server and no network, and the same
    bytes for the same results. Without results it takes half a minute.

    Examples:
      tractbench demo --open
      tractbench demo --train                 # two students of digits, one of mixture2d; later calls find them
      tractbench demo --runs cluster/runs --out cluster.html
    """
    from tractbench.cli.open import open_in_browser
    from tractbench.io.files import check_writable, write_atomic
    from tractbench.pipeline.demo import compute
    from tractbench.reports.demo import render_demo
    from tractbench.results.measured import shipped_records
    from tractbench.results.store import Store

    to_file, where, bar = str(out) != "-", chosen_device(device), progress(quiet)
    if to_file:
        check_writable(out)
    store = Store(runs, create=True)
    if train:
        _train(store, where, bar)
    records = store.records() if store.exists else []
    made = compute(records, store.root, bar, where)
    for line in (*store.damaged, *made.left_out):
        print(f"tractbench: not shown: {line}", file=sys.stderr)
    command = shlex.join(["tractbench", *sys.argv[1:]])
    page = render_demo(made, records, shipped_records() if measured else [], command, str(runs))
    if not to_file:
        print_utf8(page)
        return
    write_atomic(out, page)
    print(f"wrote {out}", file=sys.stderr)
    if show:
        open_in_browser(out)


def _train(store: Store, device: str, bar: Progress) -> None:
    """Make the runs of :data:`STUDENTS`, or find them made."""
    from tractbench.config.resolve import resolve
    from tractbench.pipeline.run import run
    from tractbench.pipeline.runtime import Runtime
    from tractbench.training.parallel import ALONE

    with interrupts(ALONE) as stop:
        for method, dataset in STUDENTS:
            bar.message(f"{method} on {dataset}, 1 NFE")
            run(*resolve({"method": method, "dataset": dataset, "nfe": 1}), store, bar, Runtime(device, stop=stop))
