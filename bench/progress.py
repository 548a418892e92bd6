"""What long work tells the outside; the command line draws it, the engine does not know how."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
