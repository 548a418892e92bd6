"""What the user is told when the command line fails."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from contextlib import suppress
from typing import TypeGuard

import typer

from tractbench.cli.interrupts import Terminated
from tractbench.cli.output import OutputError
from tractbench.errors import TractbenchError, one_line


def tell(error: BaseException) -> int:
    """Say on standard error what went wrong, and return the exit status: a user's mistake is one line and 2.

    A bug keeps its traceback, with exit status 1.
    """
    if isinstance(error, TractbenchError):
        return _line(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        code = error.exit_code if isinstance(error, Terminated) else 130
        return _line("stopped; what was finished is kept, nothing is left half-written", code)
    if name_is_too_long(error):
        return _line(f"{str(error.filename)[:60]}...: no system has so long a name; give a shorter one", 2)
    if isinstance(error, OutputError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's own last flush succeeds
        return 1 if error.closed else _line(str(error), 1)
    describe = getattr(error, "format_message", None)  # usage errors of typer, whichever click it carries
    if describe is None:
        traceback.print_exception(error)
        return 1
    text = " ".join(str(describe()).split())
    return _line(f"{text.rstrip('.')}; see 'tractbench --help'", 2) if text else 2  # without text, help was shown


def name_is_too_long(error: BaseException) -> TypeGuard[OSError]:
    """Whether a name that was given is longer than this system's files may have, of which any look at it may fail."""
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def _line(message: str, code: int) -> int:
    with suppress(OSError):  # nobody may be there to read it
        print(f"tractbench: {one_line(message)}", file=sys.stderr)
    return code
