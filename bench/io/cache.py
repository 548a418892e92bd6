"""Where downloaded, converted and computed files are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return the cache's folder: ``TRACTBENCH_CACHE``, else ``tractbench`` in the user's cache folder."""
    if chosen := os.environ.get("TRACTBENCH_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tractbench"
