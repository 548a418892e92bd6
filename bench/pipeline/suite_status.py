"""How a suite stands, as a file that any other process can read."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tractbench.errors import StoreError
from tractbench.io.files import write_atomic
from tractbench.pipeline.suite import Entry, Status, Suite
from tractbench.results.locks import held
from tractbench.results.store import SUITES, Store

STATUS = "status.json"
EVERY = 1.0
"""Seconds between two writings."""


class RunStatus(BaseModel, frozen=True):
    """A run of a suite.

    Attributes:
        run: its first cell and training seed.
        id: its identity.
        status: how it stands.
        reason: why it failed or was stopped last.
        stage: what is being done; ``done`` of ``total`` ``unit``.
        images_per_second: in this stage.
        seconds_left: of this stage, None if nobody knows.
        note: what the stage says of itself.
    """

    run: str
    id: str
    status: Status
    reason: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    images_per_second: float = 0.0
    seconds_left: float | None = None
    note: str = ""

    @classmethod
    def of(cls, entry: Entry) -> RunStatus:
        """Return how a run stands."""
        base = cls(run=entry.wanted.label, id=entry.wanted.id, status=entry.status, reason=entry.reason)
        if (now := entry.now) is None:
            return base
        told = now.model_dump(include={"stage", "done", "total", "unit", "images_per_second", "note"})
        return base.model_copy(update=told | {"seconds_left": now.seconds_left})


class SuiteStatus(BaseModel, frozen=True):
    """A suite.

    Attributes:
        command: as it was typed.
        host: where it was started.
        pid: its process.
        started: when (ISO 8601, UTC).
        updated: when it said this.
        counts: runs by status; ``impossible`` are those that lack data or a teacher.
        runs: those that are neither done nor waiting.
        problem: why nothing more is begun, "" while something is.
        alive: whether it is still there.
    """

    command: str
    host: str
    pid: int
    started: str
    updated: str = ""
    counts: dict[str, int] = {}
    runs: tuple[RunStatus, ...] = ()
    problem: str = ""
    alive: bool = True

    def seen(self, suite: Suite, impossible: int) -> SuiteStatus:
        """Return how a suite stands now."""
        counts = Counter[str](entry.status for entry in suite.entries)
        counts["impossible"] = impossible
        shown = suite.of("running", "failed", "elsewhere")
        return self.model_copy(
            update={
                "updated": datetime.now(UTC).isoformat(timespec="seconds"),
                "counts": dict(counts),
                "runs": tuple(RunStatus.of(entry) for entry in shown),
                "problem": suite.problem,
            }
        )


class StatusFile:
    """Writes how a suite stands, at most once a second; where it cannot, nobody can read it, and that is all."""

    def __init__(self, folder: Path) -> None:
        self._path, self._due = folder / STATUS, 0.0

    def write(self, status: SuiteStatus, last: bool = False) -> None:
        """Write it if it is time, or if it is the last time."""
        if last or time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            try:
                write_atomic(self._path, status.model_dump_json() + "\n")
            except StoreError:
                return


def suites(store: Store) -> list[SuiteStatus]:
    """Return the suites of a store, the latest last; of those that are not there any more what they said last."""
    found = []
    for path in sorted((store.root / SUITES).glob(f"*/{STATUS}")):
        try:
            status = SuiteStatus.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            continue
        found.append(status.model_copy(update={"alive": held(path.parent)}))
    return sorted(found, key=lambda status: status.started)


def tidy(folder: Path) -> None:
    """Remove the files of a suite's jobs, which all ended well; how it ended is kept."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != STATUS and path.name[0] != ".":
            path.unlink(missing_ok=True)
