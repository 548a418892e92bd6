"""Writing files whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tractbench.errors import StoreError


def write_atomic(path: Path, content: bytes | str | Callable[[Path], None]) -> None:
    """Write a file under a temporary name, flush it to disk and rename it, so that no reader sees half of it.

    Args:
        path: the final name; its folder is made if needed.
        content: bytes, text (written as UTF-8), or a function that writes to the path it is given.

    Raises:
        StoreError: the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(descriptor)
        temporary = Path(name)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}; choose a folder you can write to") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's contents, read in pieces."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def known_sha256(path: Path) -> str:
    """Return :func:`file_sha256`, computed anew only when the file's size, time of change or place on disk is new.

    For what is asked often of large files; damage that leaves all three as they were stays unseen.
    """
    found = path.stat()
    return _stamped_sha256(path.absolute(), found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(maxsize=64)
def _stamped_sha256(path: Path, *_stamp: int) -> str:
    return file_sha256(path)


def file_name(name: str) -> str:
    """Return a name with a hyphen for what no file's name may have on every system: ``imagenet64:npz``'s colon."""
    return re.sub(r'[<>:"/\\|?*]', "-", name)
