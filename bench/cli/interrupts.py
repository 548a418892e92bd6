"""Signals that ask a run to save and stop, and the exit status that each leaves."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from tractbench.errors import InterruptedRunError

if TYPE_CHECKING:
    from tractbench.training.parallel import Group

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 75}
"""Exit status by signal: the shell's 128 + number, and sysexits' EX_TEMPFAIL for SIGUSR1, which batch systems send
ahead of the end so that the same command is queued again. In every case the same command goes on from there."""


class Terminated(KeyboardInterrupt):
    """The system asked the process to end, where nothing more polite is in place.

    Attributes:
        exit_code: the exit status of the signal.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.exit_code = EXIT_CODES[name]


@contextmanager
def termination(ended: list[Terminated]) -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an exception, by which what is half-written is removed.

    Args:
        ended: it is put in here too, as typer makes something else of it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        ended.append(Terminated(signal.Signals(number).name))
        raise ended[-1]

    here = threading.current_thread() is threading.main_thread()  # only there can signals be handled
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name) and here]
    before = {n: signal.signal(n, end) for n in numbers if signal.getsignal(n) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupt:
    """Whether, and by which signal, a run was asked to stop; call it to ask.

    Args:
        group: the processes of the run; those that got no signal learn of it when they stop with the others.
    """

    def __init__(self, group: Group) -> None:
        self.signal: str | None = None
        self._group = group

    def __call__(self) -> bool:
        """Whether to stop."""
        if self.signal is not None:
            self._group.first("signal", self.signal)
        return self.signal is not None

    @property
    def exit_code(self) -> int | None:
        """The exit status of the signal that any process got first, None if there was none."""
        name = self._group.known("signal") or self.signal
        return EXIT_CODES[name] if name is not None else None


@contextmanager
def interrupts(group: Group) -> Iterator[Interrupt]:
    """Turn the first signal into a request to stop between two steps; a Ctrl-C after it stops at once.

    Args:
        group: the processes of the run; launchers send a signal to each, of which rank 0 speaks.

    Raises:
        InterruptedRunError: as the body raised it, with the exit status of the signal.
    """
    asked = Interrupt(group)

    def request(number: int, frame: FrameType | None) -> None:
        if asked.signal is not None:  # launchers say it twice
            return
        asked.signal = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if group.is_main:
            with suppress(OSError):  # the terminal may be gone; and print() is not for handlers
                os.write(2, f"\n{asked.signal}: saving and stopping; Ctrl-C stops at once\n".encode())

    numbers = [getattr(signal, name) for name in EXIT_CODES if hasattr(signal, name)]  # Windows has two of them
    ignored = {number for number in numbers if signal.getsignal(number) is signal.SIG_IGN}  # nohup, background jobs
    before = {number: signal.signal(number, request) for number in numbers if number not in ignored}
    try:
        yield asked
    except InterruptedRunError as error:
        error.exit_code = asked.exit_code or error.exit_code
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
