"""Where downloaded, converted and computed files are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from tractbench.errors import ConfigError


def cache_dir() -> Path:
    """Return the cache's folder: ``TRACTBENCH_CACHE``, else ``tractbench`` in the user's cache folder.

    Raises:
        ConfigError: there is no home folder that it could be in.
    """
    if chosen := os.environ.get("TRACTBENCH_CACHE"):
        return in_home(Path(chosen))
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return in_home(Path(folder)) / "tractbench"
    return in_home(Path("~/.cache/tractbench"))


def in_home(path: Path) -> Path:
    """Return a path with the user's home folder for a leading ``~``, which no shell has replaced in a variable.

    Raises:
        ConfigError: this user has no home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"no home folder for {path}; set HOME, or TRACTBENCH_CACHE to a folder of yours") from error
