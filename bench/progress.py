"""What long work tells the outside; the command line draws it or sends it on, the engine does not know how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Task:
    """One piece of long work."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that ``amount`` more units are done; ``note`` replaces the text beside the bar."""


class Progress:
    """A silent reporter, and the interface of the others."""

    @contextmanager
    def task(self, description: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Report work of ``total`` units, of which ``done`` are done, for the length of the context."""
        yield Task()

    def message(self, text: str) -> None:
        """Say one line."""


class Tracker:
    """Where a run's curves and pictures go beside its own files: nowhere, and the interface of the others."""

    @property
    def active(self) -> bool:
        """Whether anybody takes values; nothing is computed for a tracker that is not active."""
        return False

    def start(self, folder: Path, config: Mapping[str, object]) -> None:
        """Begin a run, whose files lie in ``folder``."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take values of a training step by name."""

    def image(self, name: str, path: Path, step: int) -> None:
        """Take a picture in a PNG file."""

    def close(self) -> None:
        """End the run, however it ended."""
