"""Folders that one process at a time writes; the operating system releases a lock when its holder dies."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from tractbench.errors import InterruptedRunError, StoreError
from tractbench.io.files import unwritable, write_atomic

LOCK = ".lock"
OWNER = "owner.json"
POLL_SECONDS = 0.5


class Owner(BaseModel, frozen=True):
    """Who writes a folder: a cell of the store, trained by a process of a machine since a time (ISO 8601)."""

    host: str
    pid: int
    cell: str
    since: str


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, made if needed; what a killed one left half-written there is removed.

    Raises:
        StoreError: another process is in it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=1)  # who only looks whether it is held lets go at once
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        _sweep(folder)
    except Timeout as error:
        raise StoreError(f"{folder} is being written by another process; wait for it or choose --runs") from error
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def in_turn(folder: Path, cell: str, wait: Callable[[str], None], stop: Callable[[], bool]) -> Iterator[None]:
    """Keep other processes out of a student's folder, after waiting for whoever is in it and alive.

    Args:
        folder: made if needed; while it is held, a file in it names its holder.
        cell: the cell that wants it.
        wait: called once, with whom it is waited for, if it is held.
        stop: asked twice a second; True ends the waiting.

    Raises:
        InterruptedRunError: ``stop`` ended it.
        StoreError: the folder cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=0)
    told = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                lock.acquire()
                break
            except Timeout:
                if not told:
                    wait(f"student {folder.name[:8]} is being trained by {_holder(folder)}; waiting for it")
                    told = True
                if stop():
                    raise InterruptedRunError(
                        f"stopped while student {folder.name[:8]} was being trained elsewhere; "
                        "the same command goes on from there"
                    ) from None
                time.sleep(POLL_SECONDS)
        _sweep(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    since = datetime.now(UTC).isoformat(timespec="seconds")
    owner = Owner(host=socket.gethostname(), pid=os.getpid(), cell=cell, since=since)
    try:
        write_atomic(folder / OWNER, owner.model_dump_json() + "\n")
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def held(folder: Path) -> bool:
    """Whether a process is in a folder now; a folder that cannot be tried counts as held."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _holder(folder: Path) -> str:
    try:
        owner = Owner.model_validate_json((folder / OWNER).read_bytes())
    except (OSError, ValidationError):
        return "another process"
    return f"{owner.cell} (process {owner.pid} on {owner.host}, since {owner.since})"


def _sweep(folder: Path) -> None:
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)
