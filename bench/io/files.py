"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tractbench.errors import StoreError

FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def write_atomic(path: Path, content: bytes | str | Callable[[Path], None]) -> None:
    """Write a file under a temporary name, flush it to disk and rename it, so that no reader sees half of it.

    A link stays: the file that it leads to is replaced. What is no regular file (a device, a pipe) is written to.

    Args:
        path: the final name; its folder is made if needed.
        content: bytes, text (written as UTF-8), or a function that writes to the path it is given.

    Raises:
        StoreError: the folder cannot be written, or the disk is full.
    """
    temporary = None
    try:
        target = _target(path)
        device = _is_device(target)
        if not device:
            target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            dir=None if device else target.parent, prefix=f".{target.name}.", suffix=".tmp"
        )
        os.close(descriptor)
        temporary = Path(name)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        if device:
            with temporary.open("rb") as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)
            return
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Find out now whether :func:`write_atomic` will be able to write a file, before anything long is done for it.

    Raises:
        StoreError: it will not.
    """
    try:
        target = _target(path)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if _is_device(target):
            if not os.access(target, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        folder = target.parent
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def _target(path: Path) -> Path:
    """Return the file that a name stands for, behind links; a link that leads nowhere names the file to be made.

    What leads to a pipe or a device, as ``/dev/stdout`` and a shell's ``>(...)`` do, has no other name than its own.
    """
    return Path(os.path.realpath(path)) if path.is_symlink() and not _is_device(path) else path


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def unwritable(path: Path, error: OSError) -> StoreError:
    """Return the error of a place that cannot be written, which says whether room or a right is lacking."""
    remedy = "make room, or choose another disk" if error.errno in FULL else "choose a folder you can write to"
    return StoreError(f"cannot write {path}: {error.strerror or error}; {remedy}")


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
