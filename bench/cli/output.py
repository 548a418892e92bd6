"""What goes to standard output and standard error, whatever they are connected to."""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PLAIN = {
    "\N{PLUS-MINUS SIGN}": "+/-",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{CHECK MARK}": "yes",
    "\N{BALLOT X}": "no",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{LESS-THAN OR EQUAL TO}": "<=",
    "\N{GREATER-THAN OR EQUAL TO}": ">=",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{GREEK SMALL LETTER SIGMA}": "sigma",
    "\N{GREEK SMALL LETTER MU}": "mu",
}
"""What stands for characters that an encoding does not have."""

HANDLER = "tractbench.plain"


def prepare_streams() -> None:
    """Let standard output and error take every text: what their encoding does not have is written in plain letters."""
    codecs.register_error(HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)
    if isinstance(sys.stdout, io.TextIOWrapper) and not hasattr(sys.stdout, "guarded"):
        for name in ("write", "flush"):
            setattr(sys.stdout, name, _guarded(getattr(sys.stdout, name)))
        setattr(sys.stdout, "guarded", True)  # noqa: B010 - no attribute of the class


def console(stderr: bool = False) -> Console:
    """Return what draws tables and bars on standard output or error.

    On a terminal Rich decides (``NO_COLOR``, ``TERM=dumb``). Elsewhere standard error never has escapes, and standard
    output has colours only where ``FORCE_COLOR`` asks for them, against which ``NO_COLOR`` wins.
    """
    from rich.console import Console

    force, unwanted = os.environ.get("FORCE_COLOR", ""), bool(os.environ.get("NO_COLOR"))
    unwanted = unwanted or force == "0"
    stream = sys.stderr if stderr else sys.stdout
    if stream is not None and stream.isatty():
        return Console(stderr=stderr, highlight=False, no_color=unwanted)
    coloured = bool(force) and not unwanted and not stderr
    return Console(stderr=stderr, highlight=False, no_color=unwanted, force_terminal=coloured, force_interactive=False)


class OutputError(Exception):
    """Standard output takes nothing more.

    Attributes:
        closed: because nobody reads it any more, which is no mistake.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}; send it elsewhere")
        self.closed = isinstance(error, BrokenPipeError)


def _guarded(method: Callable[..., object]) -> Callable[..., object]:
    """Return a method of standard output whose failures cannot be taken for those of a file."""

    def guarded(*arguments: object) -> object:
        try:
            return method(*arguments)
        except OSError as error:
            raise OutputError(error) from error

    return guarded


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_letters, error.object[error.start : error.end])), error.end


def _letters(character: str) -> str:
    if character in PLAIN:
        return PLAIN[character]
    decomposed = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return decomposed or "?"


def print_utf8(text: str) -> None:
    """Print a document that says or implies that it is UTF-8, whatever encoding the terminal has."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        _guarded(sys.stdout.buffer.write)(text.encode())
        _guarded(sys.stdout.buffer.flush)()
    else:
        print(text, end="")


def to_json(value: object, indent: int | None = None) -> str:
    """Return a value as JSON text of ASCII characters; JSON has no infinities and no NaN, which become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
