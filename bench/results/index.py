"""The index of a store's records: one file to read instead of one in each folder, and never more than that."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from tractbench.errors import StoreError
from tractbench.io.files import write_atomic
from tractbench.results.migrate import BOM
from tractbench.results.record import Record

INDEX = "records.jsonl"
INDEX_LOCK = ".records.lock"
PATIENCE_SECONDS = 10.0
"""How long a writer waits for another one's line; without its own line the record is found in its folder."""


class Entry(BaseModel, frozen=True, ser_json_inf_nan="constants"):
    """A record, and the size (bytes) and time (ns) of the file in a folder of the store that it was read from."""

    folder: str
    mtime_ns: int
    size: int
    record: Record


@dataclass(frozen=True)
class Indexed:
    """What an index holds: the last entry of each folder, and whether it had lines that are of no use."""

    entries: dict[str, Entry]
    untidy: bool


class Index:
    """The index of the store in a folder. It is only a copy: what cannot be read or written is passed over."""

    def __init__(self, root: Path) -> None:
        self.path = root / INDEX
        self._lock = root / INDEX_LOCK

    def read(self) -> Indexed:
        """Return what it holds; a torn, changed, foreign or repeated line makes it untidy."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return Indexed({}, untidy=False)
        lines = [line.strip() for line in content.removeprefix(BOM).split(b"\n") if line.strip()]
        entries: dict[str, Entry] = {}
        with without_collection():
            for line in lines:
                body, seal = line[:-_TAIL], line[-_TAIL:]
                if seal != _seal(body):
                    continue
                try:
                    entry = Entry.model_validate_json(body + b"}")
                except ValidationError:
                    continue
                entries[entry.folder] = entry
        return Indexed(entries, untidy=len(entries) != len(lines))

    def append(self, entry: Entry) -> None:
        """Add a line in one write, after a torn one if need be."""
        try:
            with FileLock(self._lock, timeout=PATIENCE_SECONDS), self.path.open("ab+") as handle:
                torn = handle.tell() > 0 and (handle.seek(-1, os.SEEK_END), handle.read(1))[1] != b"\n"
                handle.write((b"\n" if torn else b"") + _line(entry))
        except (OSError, Timeout):
            return  # the record is in its folder, where the next reader finds it

    def rewrite(self, entries: Iterable[Entry]) -> None:
        """Replace it whole, unless it cannot be written or somebody is writing it now."""
        try:
            with FileLock(self._lock, timeout=0):
                write_atomic(self.path, b"".join(map(_line, entries)))
        except (OSError, Timeout, StoreError):
            return


def _line(entry: Entry) -> bytes:
    body = entry.model_dump_json().encode()[:-1]
    return body + _seal(body) + b"\n"


def _seal(body: bytes) -> bytes:
    """Return the end of a line's JSON object: the hash of what is before it, of bytes, as there may be many lines."""
    return b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


_TAIL = len(_seal(b""))


@contextmanager
def without_collection() -> Iterator[None]:
    """Collect no garbage while records are read: they form no cycles, and looking for some takes longer."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
