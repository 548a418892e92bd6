"""JSON objects that carry a hash of their fields, by which a changed one is seen when it is read.

The hash is of values, not of bytes: other line ends, indentation, a byte order mark or a field that was added change
nothing. An object without a seal, as earlier releases wrote it, is taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

SEAL = "seal"


class BrokenSealError(ValueError):
    """An object whose fields are not those that it was written with."""


def sealed(value: Mapping[str, object]) -> dict[str, object]:
    """Return an object with its seal: the names of its fields and the sha256 of their values."""
    return {**value, SEAL: {"fields": list(value), "sha256": _digest(value, value)}}


def unsealed(value: Mapping[str, object]) -> dict[str, object]:
    """Return an object without its seal.

    Raises:
        BrokenSealError: a field is another than it was written with, or is missing.
    """
    rest = {name: inner for name, inner in value.items() if name != SEAL}
    if SEAL in value:
        seal = value[SEAL]
        names = seal.get("fields") if isinstance(seal, dict) else None
        known = isinstance(names, list) and all(isinstance(name, str) and name in rest for name in names)
        if not known or not isinstance(seal, dict) or seal.get("sha256") != _digest(rest, names or ()):
            raise BrokenSealError("it is not as it was written")
    return rest


def _digest(value: Mapping[str, object], names: Iterable[str]) -> str:
    # not canonical(): scores of runs that diverged are not finite
    text = json.dumps({name: value[name] for name in names}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
