"""A suite: the runs that tables want and a store lacks, handed to an engine until all are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tractbench.errors import TractbenchError
from tractbench.pipeline.suite_cells import Wanted, look_up
from tractbench.pipeline.suite_engine import Engine, Running
from tractbench.pipeline.suite_job import DRAIN, Batch, Item, busy
from tractbench.pipeline.suite_order import deal, ordered
from tractbench.pipeline.suite_progress import Current, JobReport, read_report
from tractbench.plugins import used_files
from tractbench.results.store import Store

Status = Literal["done", "failed", "running", "queued", "elsewhere", "waiting"]
"""Of a run; ``queued``: a job was given it and has not begun it; ``elsewhere``: another process is making it."""

DEATHS = 3
"""Processes that a run may take with it before it counts as failed."""

LOOK_EVERY = 2.0
"""Seconds between two looks at runs that are made elsewhere, and between two requests to stop."""


@dataclass
class Entry:
    """A run in a suite, and how it stands.

    Attributes:
        wanted: the run.
        status: how it stands.
        reason: why it failed or was stopped.
        now: what is being done, while it is running.
        deaths: processes that ended without a word while they made it.
        fresh: whether this suite has seen it end.
    """

    wanted: Wanted
    status: Status = "waiting"
    reason: str = ""
    now: Current | None = None
    deaths: int = 0
    fresh: bool = False


@dataclass(frozen=True)
class Options:
    """How a suite is made.

    Attributes:
        jobs: jobs at a time.
        pack_seconds: how long a job begins further runs.
        retry_failed: make runs that failed before again.
        max_failures: failures in this suite after which nothing more is begun; None for any number.
        device: cpu, cuda or auto.
        checkpoint_every: seconds between checkpoints; None as a run has it.
    """

    jobs: int = 1
    pack_seconds: float = 120.0
    retry_failed: bool = False
    max_failures: int | None = None
    device: str = "auto"
    checkpoint_every: float | None = None


@dataclass
class _Flight:
    """A job under way."""

    running: Running
    batch: Batch
    entries: list[Entry]
    begun: JobReport = field(default_factory=JobReport)

    @property
    def left(self) -> list[Entry]:
        """Its runs that it has not left."""
        return [entry for entry in self.entries if entry.wanted.id not in self.begun.ended]


class Suite:
    """Runs in the order in which they are made, and how they stand.

    Args:
        cells: the runs.
        store: where they are looked up and go.
        folder: the suite's own, which it holds the lock of.
        options: how it is made.
    """

    def __init__(self, cells: Sequence[Wanted], store: Store, folder: Path, options: Options) -> None:
        self.store, self.folder, self.options = store, folder, options
        self.entries = [Entry(wanted) for wanted in ordered(cells)]
        self.problem = ""
        """Why nothing more is begun, "" while something is."""
        self._made: set[str] = set()
        self._flights: list[_Flight] = []
        self._numbered = 0
        self._stopping = False
        for entry in self.entries:
            entry.status, entry.reason = look_up(store, entry.wanted)
            if entry.status == "failed" and options.retry_failed:
                entry.status, entry.reason = "waiting", ""
            if entry.status == "done":
                self._made |= entry.wanted.shared

    def of(self, *statuses: Status) -> list[Entry]:
        """Return the runs that stand so."""
        return [entry for entry in self.entries if entry.status in statuses]

    @property
    def failures(self) -> int:
        """Runs that failed in this suite, not before it."""
        return sum(entry.fresh for entry in self.of("failed"))

    def make(self, engine: Engine, stop: Callable[[], bool], watch: Callable[[Suite], None]) -> None:
        """Make all runs that can be made.

        Args:
            engine: runs the jobs.
            stop: asked several times a second; True lets every job save and stop.
            watch: told how things stand, as often.
        """
        asked, looked = 0.0, 0.0
        try:
            while True:
                now = time.monotonic()
                for flight in self._flights:
                    self._follow(flight)
                self._flights = [flight for flight in self._flights if not self._landed(flight)]
                if now - looked >= LOOK_EVERY:
                    looked = now
                    self._look_elsewhere()
                stopping = self._stopping = stop()
                if stopping and now - asked >= LOOK_EVERY:  # again and again: a process that is starting hears nothing
                    asked = now
                    self._stop()
                if not stopping and not self._halted():
                    self._begin(engine)
                watch(self)
                if not self._flights and (stopping or self.problem or not self.of("waiting", "elsewhere")):
                    return
                time.sleep(engine.poll_seconds)
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        for flight in self._flights:
            flight.running.stop()

    def _halted(self) -> bool:
        """Whether nothing more is begun, in running jobs neither."""
        limit = self.options.max_failures
        if not self.problem and limit is not None and self.failures >= limit:
            self.problem = f"{self.failures} runs failed, --max-failures is {limit}"
        if self.problem:
            (self.folder / DRAIN).touch()
        return bool(self.problem)

    def _begin(self, engine: Engine) -> None:
        """Fill the engine's free places."""
        batches: list[Batch] = []
        groups: list[list[Entry]] = []
        jobs = self.options.jobs
        for free in range(jobs - len(self._flights), 0, -1):
            waiting = {entry.wanted.id: entry for entry in self.of("waiting")}
            cells = [entry.wanted for entry in waiting.values()]
            held = len(self.of("queued", "running"))
            group = [waiting[one.id] for one in deal(cells, self._made, self._making(groups), jobs, free, held)]
            if not group:
                break
            for entry in group:
                entry.status = "queued"
            groups.append(group)
            batches.append(self._batch(group, engine.alone))
        if not batches:
            return
        try:
            started = engine.submit(batches)
        except TractbenchError as error:
            self.problem = str(error)
            for entry in (entry for group in groups for entry in group):
                entry.status = "waiting"
            return
        self._flights += [_Flight(*one) for one in zip(started, batches, groups, strict=True)]

    def _making(self, groups: Iterable[list[Entry]]) -> set[str]:
        """Return the keys of what jobs are making, and those that are about to be handed over."""
        under_way = [entry for flight in self._flights for entry in flight.left]
        under_way += [entry for group in groups for entry in group]
        return {key for entry in under_way for key in entry.wanted.shared} - self._made

    def _batch(self, group: Sequence[Entry], alone: bool) -> Batch:
        self._numbered += 1
        cells = [entry.wanted.cell for entry in group]
        return Batch(
            items=tuple(Item(c.id, c.student if c.method.trains else "", c.config.model_dump_json()) for c in cells),
            store=str(self.store.root.absolute()),
            report=str(self.folder.absolute() / f"job-{self._numbered:04d}.json"),
            seconds=self.options.pack_seconds,
            device=self.options.device,
            checkpoint_every=self.options.checkpoint_every,
            suite="" if alone else str(self.folder.absolute()),
            plugins=tuple(map(str, used_files())),
        )

    def _follow(self, flight: _Flight) -> None:
        """Take over what a job says."""
        before, flight.begun = flight.begun.ended, read_report(Path(flight.batch.report))
        current = flight.begun.current
        for entry in flight.entries:
            one = entry.wanted
            if one.id in flight.begun.ended and one.id not in before:
                self._ended(entry, flight.begun)
            elif entry.status in ("queued", "running"):
                entry.now = current if current and current.id == one.id else None
                entry.status = "running" if entry.now else "queued"
                self._made |= _past(one, entry.now)
        if flight.begun.closed:  # what it has not begun it will not begin, however long it still takes
            for entry in flight.left:
                if entry.status == "queued":
                    entry.status = "waiting"
                    flight.entries.remove(entry)

    def _ended(self, entry: Entry, report: JobReport) -> None:
        end = report.ended[entry.wanted.id]
        entry.now, entry.reason, entry.fresh = None, end.reason, True
        if end.status == "done":  # the store has the last word
            entry.status, entry.reason = look_up(self.store, entry.wanted)
        elif end.status == "failed":
            entry.status = "failed"
        elif end.status == "elsewhere":
            entry.status = "elsewhere"
        else:
            entry.status = "waiting"
        if end.status == "unwritable":
            self.problem = end.reason
        if entry.status == "done":
            self._made |= entry.wanted.shared

    def _landed(self, flight: _Flight) -> bool:
        """Whether a job has ended; what it left undone is then for others."""
        if not flight.running.done():
            return False
        self._follow(flight)
        left = [entry for entry in flight.left if entry.status in ("queued", "running")]
        for entry in left:
            entry.status, entry.now = "waiting", None
        if left and not flight.begun.finished and not self._stopping:  # it died; the run in its hands may be why
            dying = left[0]
            dying.deaths += 1
            dying.reason = f"its process ended without a word: {flight.running.log()}"
            if dying.deaths >= DEATHS:
                dying.status, dying.fresh = "failed", True
        return True

    def _look_elsewhere(self) -> None:
        """See whether runs that other processes were making are there now, or left to us."""
        for entry in self.of("elsewhere"):
            cell = entry.wanted.cell
            found, reason = look_up(self.store, entry.wanted)
            if found != "waiting":
                entry.status, entry.reason = found, reason
                self._made |= entry.wanted.shared if found == "done" else set()
            elif not busy(self.store, cell.id, cell.student if cell.method.trains else "", cell.config):
                entry.status = "waiting"


def _past(wanted: Wanted, now: Current | None) -> frozenset[str]:
    """Return the keys of what a run that is under way has made or found."""
    if now is None or now.stage not in ("training", "sampling and scoring"):
        return frozenset()
    return wanted.shared if now.stage == "sampling and scoring" else frozenset({wanted.ends})
