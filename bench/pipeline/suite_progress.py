"""What a suite's job says of itself: one small file, written by the job and read by whoever shows it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from tractbench.progress import Progress, Task

EVERY = 1.0
"""Seconds between two writings."""

Ending = Literal["done", "failed", "interrupted", "elsewhere", "unwritable"]
"""How a job left a run; ``elsewhere``: another process is making it; ``unwritable``: the store could not be written."""


class Current(BaseModel, frozen=True):
    """The run that a job is making.

    Attributes:
        id: its identity.
        stage: what is being done, "" before anything is.
        done: units of the stage that are done.
        total: of how many.
        unit: what they are.
        per_second: units in a second since the stage began in this process.
        images_per_second: the same in images.
        note: what the stage says of itself, such as its loss.
    """

    id: str
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    per_second: float = 0.0
    images_per_second: float = 0.0
    note: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the stage still takes, None if nobody knows."""
        return (self.total - self.done) / self.per_second if self.per_second else None


class End(BaseModel, frozen=True):
    """How a job left a run, and why."""

    status: Ending
    reason: str = ""


class JobReport(BaseModel, frozen=True):
    """What a job says.

    Attributes:
        host: where it runs.
        pid: its process.
        current: the run that it is making.
        ended: how it left others, by identity.
        closed: whether it begins no further run; what it was given and has not begun is then for others.
        finished: whether it ended by itself.
    """

    host: str = ""
    pid: int = 0
    current: Current | None = None
    ended: dict[str, End] = {}
    closed: bool = False
    finished: bool = False


def read_report(path: Path) -> JobReport:
    """Return what a job said last, nothing if it has not said anything yet."""
    try:
        return JobReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return JobReport()


class Reporter:
    """Writes a job's report; a disk that is full makes no run fail for that.

    Args:
        path: the report's file.
        seconds: after which the job is closed.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._due = 0.0
        self._closes = time.monotonic() + seconds
        self.report = JobReport(host=socket.gethostname(), pid=os.getpid())

    @property
    def due(self) -> bool:
        """Whether it is time for the next writing."""
        return time.monotonic() >= self._due

    def says(
        self,
        current: Current | None = None,
        *,
        end: tuple[str, End] | None = None,
        last: bool = False,
        at_once: bool = False,
    ) -> None:
        """Report what is being done, how a run ended, or that this is the last word.

        Args:
            current: the run that is being made.
            end: identity of a run that was left, and how; written at once.
            last: the job has ended; written at once.
            at_once: write it whether it is time or not.
        """
        ended = self.report.ended | ({end[0]: end[1]} if end else {})
        closed = last or time.monotonic() >= self._closes
        update = {"current": current, "ended": ended, "closed": closed, "finished": last}
        self.report = self.report.model_copy(update=update)
        if end or last or at_once or self.due:
            self._due = time.monotonic() + EVERY
            beside = self._path.with_name(f".{self._path.name}.tmp")  # no fsync: it is of use for a second only
            with contextlib.suppress(OSError):
                beside.write_text(self.report.model_dump_json(), encoding="utf-8")
                beside.replace(self._path)


class FileProgress(Progress):
    """Reports the stages of one run."""

    def __init__(self, reporter: Reporter, run: str, batch: int) -> None:
        """``batch`` is the number of images in a training step."""
        self._reporter, self._run, self._batch = reporter, run, batch

    @contextmanager
    def task(self, description: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Report a stage for the length of the context."""
        start = Current(id=self._run, stage=description, total=total, unit=unit, done=done)
        yield _FileTask(self._reporter, start, self._batch if unit == "step" else 1)

    def message(self, text: str) -> None:
        """Say a line in the job's log."""
        print(text, flush=True)


class _FileTask(Task):
    def __init__(self, reporter: Reporter, start: Current, images: int) -> None:
        self._reporter, self._start, self._images = reporter, start, images
        self._began, self._done, self._note = time.monotonic(), start.done, ""
        reporter.says(start, at_once=True)

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        if not self._reporter.due:
            return
        speed = (self._done - self._start.done) / max(1e-6, time.monotonic() - self._began)
        now = {"done": self._done, "per_second": speed, "images_per_second": speed * self._images, "note": self._note}
        self._reporter.says(self._start.model_copy(update=now))
