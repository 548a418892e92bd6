"""What the user is told when the command line fails."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from tractbench.errors import TractbenchError


def tell(error: BaseException) -> int:
    """Say on standard error what went wrong, and return the exit status: a user's mistake is one line and 2.

    A bug keeps its traceback, with exit status 1.
    """
    if isinstance(error, TractbenchError):
        return _line(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _line("stopped; what was finished is kept, nothing is left half-written", 130)
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    describe = getattr(error, "format_message", None)  # usage errors of typer, whichever click it carries
    if describe is None:
        traceback.print_exception(error)
        return 1
    text = " ".join(str(describe()).split())
    return _line(f"{text.rstrip('.')}; see 'tractbench --help'", 2) if text else 2  # without text, help was shown


def _line(message: str, code: int) -> int:
    print(f"tractbench: {message}", file=sys.stderr)
    return code
