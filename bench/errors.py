"""Errors a user can mend: each is printed as one line that names the value and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class TractbenchError(Exception):
    """A problem the user can act on; the command line prints it as one line.

    Attributes:
        exit_code: the process's exit status, 2 unless a subclass says otherwise.
    """

    exit_code = 2


class ConfigError(TractbenchError):
    """A name, a value or a combination of values that no run can have."""


class StoreError(TractbenchError):
    """A results folder that cannot be written, or is not one of ours."""


class DamagedFileError(TractbenchError):
    """A file whose contents are not what its hash, header or format promises."""


class DownloadError(TractbenchError):
    """A file that could not be fetched."""


class RunFailedError(TractbenchError):
    """A run that started and could not finish; it is recorded as failed."""

    exit_code = 1


class InterruptedRunError(TractbenchError):
    """A run stopped by the user or the system; the message says what is kept."""

    exit_code = 130


def one_line(text: str) -> str:
    """Return a text of somebody else's as one line: no line ends, no commands to a terminal."""
    plain = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text)
    return " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in plain).split())


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or all the known names."""
    names = sorted(known)
    folded = {n.lower().replace("-", "_"): n for n in names}
    close = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{folded[close[0]]}'?"
    return f"; known: {', '.join(names) or 'none'}"


def choose(value: str, kind: str, known: Iterable[str]) -> str:
    """Return ``value`` if it is known, whatever its case; a ConfigError names the nearest known one."""
    names = tuple(known)
    if value.lower() not in names:
        raise ConfigError(f"unknown {kind} {value!r}{nearest_name(value, names)}")
    return value.lower()
