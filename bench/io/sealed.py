"""Computed files that carry their hashes: one that is not as it was written is computed again, never used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tractbench.io.files import file_sha256, unwritable, write_atomic
from tractbench.progress import Progress

POLL_SECONDS = 0.5


def keep_sealed(files: Sequence[Path], compute: Callable[[], None], progress: Progress) -> None:
    """Make the files of one cache entry, unless they are there as they were written.

    Their hashes are written last, beside the first of them, in ``NAME.sha256`` as ``sha256sum`` writes them: an entry
    without them was never finished. Of several processes one computes, and the others wait for it.

    Args:
        files: all of them, in one folder.
        compute: writes every one of them.
        progress: told when files do not fit their hashes, and when another process is waited for.

    Raises:
        StoreError: the folder cannot be written.
    """
    seal = files[0].with_suffix(".sha256")
    if _fits(seal, files):
        return
    with _alone(seal, progress):
        if _fits(seal, files):
            return
        for path in files:  # what a killed process left half-written: nobody else writes here now
            for left in path.parent.glob(f".{path.name}.*.tmp"):
                left.unlink(missing_ok=True)
        if any(path.exists() for path in (seal, *files)):
            progress.message(f"{files[0]} does not fit the hashes in {seal.name}; it is computed again")
        seal.unlink(missing_ok=True)
        compute()
        write_atomic(seal, _hashes(files))


def _hashes(files: Sequence[Path]) -> str:
    return "".join(f"{file_sha256(path)}  {path.name}\n" for path in files)


def _fits(seal: Path, files: Sequence[Path]) -> bool:
    try:
        return seal.read_bytes() == _hashes(files).encode()
    except OSError:
        return False


@contextmanager
def _alone(seal: Path, progress: Progress) -> Iterator[None]:
    """Hold an entry's lock; the system releases that of a process that dies."""
    lock = FileLock(seal.with_name(f".{seal.stem}.lock"))
    try:
        seal.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.message(f"waiting for another process that computes {seal.stem}")
            with progress.task("waiting", 0, "s") as task:
                while not lock.is_locked:
                    with suppress(Timeout):
                        lock.acquire(timeout=POLL_SECONDS)
                    task.advance(0)  # who waits may be asked to stop
    except OSError as error:
        raise unwritable(seal.parent, error) from error
    try:
        yield
    finally:
        lock.release()
