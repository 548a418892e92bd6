"""The one JSON text of a value, to hash or to compare."""

from __future__ import annotations

import json


def canonical(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
