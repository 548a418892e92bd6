"""How a suite is shown: a live table on a terminal, a line for each change elsewhere, or JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tractbench.cli.output import console, to_json
from tractbench.pipeline.suite import Entry, Status, Suite
from tractbench.pipeline.suite_cells import Choice, Unmet, look_up, missing_needs, wanted_cells
from tractbench.pipeline.suite_cost import Cost, Costs
from tractbench.pipeline.suite_order import ordered
from tractbench.pipeline.suite_status import RunStatus, SuiteStatus
from tractbench.results.store import Store

REASONS = 8
"""Failures that a table shows; the summary has all of them."""

SECONDS = 0.5
"""Between two drawings of the live table."""


class Shown:
    """A suite as lines: one for each change of a run, and a summary; ``quiet`` leaves the changes out."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._before: dict[str, tuple[Status, str]] = {}

    def changes(self, suite: Suite, status: SuiteStatus) -> None:
        """Show what has changed since the last time."""
        first = not self._before
        for entry in suite.entries:
            now: tuple[Status, str] = ("waiting" if entry.status == "queued" else entry.status, entry.reason)
            if self._before.get(entry.wanted.id) != now:
                self._before[entry.wanted.id] = now
                if not (self._quiet or first) or (first and entry.status == "failed"):
                    self.change(entry, suite)

    def change(self, entry: Entry, suite: Suite) -> None:
        """Show one change."""
        reason = f": {entry.reason}" if entry.reason and entry.status != "done" else ""
        print(f"{len(suite.of('done'))}/{len(suite.entries)} {entry.status:9} {entry.wanted.label}{reason}", flush=True)

    def summary(self, suite: Suite, status: SuiteStatus, unmet: Sequence[Unmet], code: int) -> None:
        """Show how it ended."""
        print(counted(status.counts))
        for entry in suite.of("failed"):
            print(f"failed: {entry.wanted.label}: {entry.reason}")
        for reason, refs in _by_reason(unmet).items():
            print(f"cannot be made here: {', '.join(refs)}: {reason}")
        if suite.problem:
            print(f"stopped: {suite.problem}")
        if any(not entry.fresh for entry in suite.of("failed")):
            print("what failed before is run again with --retry-failed")
        if code == 75 or suite.problem:
            print("the same command goes on from here")


class Terminal(Shown):
    """A suite as one live table."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self._live, self._due = live, 0.0

    def changes(self, suite: Suite, status: SuiteStatus) -> None:
        """Draw the table anew if it is time."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + SECONDS
            self._live.update(drawn(status), refresh=True)


class Lines(Shown):
    """A suite as JSON objects, one a line."""

    def change(self, entry: Entry, suite: Suite) -> None:
        """Print a change as an object."""
        run = RunStatus.of(entry).model_dump(include={"run", "id", "status", "reason"})
        print(to_json({"event": "change", **run}), flush=True)

    def summary(self, suite: Suite, status: SuiteStatus, unmet: Sequence[Unmet], code: int) -> None:
        """Print how it ended as an object."""
        failed = [RunStatus.of(entry).model_dump(include={"run", "id", "reason"}) for entry in suite.of("failed")]
        impossible = [{"cell": one.ref, "runs": one.runs, "reason": one.reason} for one in unmet]
        print(to_json({"event": "summary", "exit": code, "counts": status.counts, "failed": failed,
                          "impossible": impossible, "problem": suite.problem}), flush=True)  # fmt: skip


@contextmanager
def display(as_json: bool, quiet: bool) -> Iterator[Shown]:
    """Show a suite for the length of the context in the way that fits standard output."""
    if as_json:
        yield Lines(quiet)
    elif quiet or not sys.stdout.isatty():
        yield Shown(quiet)
    else:
        with Live(console=console(), auto_refresh=False, transient=True) as live:
            yield Terminal(live)


def counted(counts: dict[str, int]) -> str:
    """Say how many runs stand how."""
    names = {"elsewhere": "made elsewhere", "impossible": "cannot be made here"}
    parts = [f"{number} {names.get(status, status)}" for status, number in counts.items() if number]
    return f"{sum(counts.values())} runs: {', '.join(parts) or 'none'}"


def drawn(status: SuiteStatus) -> Group:
    """Return a suite as a table of what is going on, under the counts."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for title, justify in (("run", "left"), ("", "left"), ("done", "right"), ("images/s", "right"), ("left", "right")):
        table.add_column(title, justify="right" if justify == "right" else "left", overflow="fold")
    failed = [run for run in status.runs if run.status == "failed"]
    for run in (one for one in status.runs if one.stage):
        amount = f"{run.done:,}/{run.total:,} {run.unit}s"
        speed = f"{run.images_per_second:,.0f}" if run.images_per_second else ""
        table.add_row(run.run, " ".join(filter(None, (run.stage, run.note))), amount, speed, duration(run.seconds_left))
    for run in failed[-REASONS:]:
        table.add_row(run.run, Text(f"failed: {run.reason}"), "", "", "")
    head = [Text(counted(status.counts))] + ([Text(f"stopping: {status.problem}")] if status.problem else [])
    return Group(*head, table) if table.row_count else Group(*head)


def duration(seconds: float | None) -> str:
    """Write a length of time: 42 s, 3:05 min, 2.5 h; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def print_status(found: Sequence[SuiteStatus], as_json: bool) -> None:
    """Print how suites stand: those that are there, else the last one."""
    shown = [status for status in found if status.alive] or list(found[-1:])
    if as_json:
        for status in shown:
            print(status.model_dump_json())
        return
    terminal = console()
    for status in shown:
        state = "" if status.alive else ", not running any more"
        terminal.print(f"{status.command}", markup=False, soft_wrap=True)
        said = f"process {status.pid} on {status.host}, as of {status.updated}{state}"
        terminal.print(said, markup=False, soft_wrap=True)
        terminal.print(drawn(status if status.alive else status.model_copy(update={"runs": ()})))
    if not shown:
        print("no suite was started here")


def print_dry_run(choice: Choice, store: Store, as_json: bool) -> None:
    """Print the runs that a suite would make in their order, what they cost and what is missing."""
    cells, unmet = wanted_cells(choice)
    known = {one.id: look_up(store, one) for one in cells}
    lacking = [one for one in ordered(cells) if known[one.id][0] != "done"]
    done = [one for one in cells if known[one.id][0] == "done"]
    costs = Costs(store.records()).each(lacking, [one.cell.student for one in done])
    total = sum(costs, Cost())
    needs = missing_needs(unmet, lacking)
    if as_json:
        runs = [{"run": one.label, "id": one.id, "state": known[one.id][0], "command": one.cell.command,
                 "seconds": None if cost.unknown else cost.total}
                for one, cost in zip(lacking, costs, strict=True)]  # fmt: skip
        impossible = [{"cell": one.ref, "runs": one.runs, "reason": one.reason} for one in unmet]
        print(to_json({"done": len(done), "runs": runs, "impossible": impossible,
                          "seconds": {"training": total.training, "sampling and scoring": total.sampling},
                          "counted": total.counted, "unknown": total.unknown,
                          "missing": [{"name": need.name, "detail": need.detail} for need in needs]}))  # fmt: skip
        return
    for one, cost in zip(lacking, costs, strict=True):
        state, reason = known[one.id]
        took = "?" if cost.unknown else duration(cost.total)
        print(f"{took:>10}  {one.label}{f'  (failed before: {reason})' if state == 'failed' else ''}")
    print(f"{len(done)} runs are there, {len(lacking)} would be made")
    known_costs = f"training {duration(total.training)}, sampling and scoring {duration(total.sampling)}"
    if total.unknown < total.runs:
        print(f"cost on one device: {known_costs}, together {duration(total.total)}")
    if total.counted:
        print(f"of it {total.counted} runs by their operations: none is like them here, and small networks take longer")
    if total.unknown:
        print(f"of {total.unknown} runs nobody knows the cost: none is like them here, and they are closed forms")
    for need in needs:
        print(f"missing: {need.name}: {need.detail}")
    for reason, refs in _by_reason(unmet).items():
        print(f"cannot be made here: {', '.join(refs)}: {reason}")


def _by_reason(unmet: Sequence[Unmet]) -> dict[str, list[str]]:
    """Return cells by what keeps them from being made, a line each."""
    found: dict[str, list[str]] = {}
    for one in unmet:
        found.setdefault(" ".join(one.reason.split()), []).append(one.ref)
    return found
