"""The store: a folder with one append-only table of records and one folder for each run."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from tractbench.config.fields import RunConfig
from tractbench.errors import DamagedFileError, StoreError
from tractbench.io.files import write_atomic
from tractbench.results.record import Record

MARKER = "tractbench-store.json"
TABLE = "records.jsonl"
STUDENT = "student.safetensors"
CHECKPOINT = "checkpoint"
"""What the names of checkpoints begin with."""
LOSSES = "loss.csv"
PICTURE = "samples.png"
GRID = "grid.png"
"""Samples of the first sampling seed, pixel for pixel."""
TEACHER_GRID = "teacher-grid.png"
"""The same noises through the teacher in all its steps."""


class Store:
    """Results of many runs.

    Args:
        root: the store's folder.
        create: it may be missing or empty; it is made when the first run starts.

    Raises:
        StoreError: the folder is not a store, or cannot be written.
    """

    def __init__(self, root: Path, create: bool = False) -> None:
        self.root = root
        marker = root / MARKER
        try:
            if marker.is_file():
                if json.loads(marker.read_text())["format"] != 1:
                    raise StoreError(
                        f"{root} was written by a newer tractbench; upgrade, or choose another --runs folder"
                    )
                return
            if root.exists() and (not root.is_dir() or any(root.iterdir())):
                raise StoreError(f"{root} is not empty and not a tractbench store; choose another --runs folder")
        except OSError as error:
            raise StoreError(f"cannot read {root}: {error.strerror}; choose another --runs folder") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(f'{marker} is damaged; write {{"format": 1}} into it') from error
        if not create:
            raise StoreError(f"no results in {root}; make some with 'tractbench run', or name their folder with --runs")

    @property
    def exists(self) -> bool:
        """Whether anything was ever written to it."""
        return (self.root / MARKER).is_file()

    def _make(self) -> None:
        if not self.exists:
            write_atomic(self.root / MARKER, json.dumps({"format": 1}) + "\n")

    def folder(self, config: RunConfig, student: str, identity: str) -> Path:
        """Return the folder of a run; the name tells what it is, both hashes make it unique."""
        name = f"{config.method}-{config.dataset}-{config.tier}-nfe{config.nfe}-seed{config.seed}"
        return self.root / f"{name}-{student[:8]}-{identity[:8]}"

    @property
    def cache(self) -> Path:
        """Folder of what can be computed again."""
        return self.root / "cache"

    @contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        """Keep a second process out of a run's folder; what a killed one left half-written there is removed."""
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            self._make()
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            for left in folder.glob(".*.tmp"):
                left.unlink()
        except Timeout as error:
            raise StoreError(f"{folder} is being written by another process; wait for it or choose --runs") from error
        except OSError as error:
            raise StoreError(f"cannot write {folder}: {error.strerror}; choose another --runs folder") from error
        try:
            yield
        finally:
            lock.release()

    def append(self, record: Record) -> None:
        """Write a record into its run's folder and add it to the table in one write."""
        self._make()
        line = record.model_dump_json() + "\n"
        write_atomic(self.root / record.folder / "record.json", record.model_dump_json(indent=2) + "\n")
        table = self.root / TABLE
        try:
            with FileLock(self.root / ".records.lock"), table.open("ab+") as handle:
                torn = handle.tell() > 0 and (handle.seek(-1, os.SEEK_END), handle.read(1))[1] != b"\n"
                handle.write((b"\n" if torn else b"") + line.encode())
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise StoreError(
                f"cannot write {table}: {error.strerror}; the record is in {record.folder}/record.json"
            ) from error

    def records(self) -> list[Record]:
        """Return every record, oldest first.

        Raises:
            DamagedFileError: a line of the table is not a record.
        """
        table = self.root / TABLE
        if not table.exists():
            return []
        lines = table.read_text(encoding="utf-8", errors="replace").split("\n")  # splitlines() knows more ends
        collecting = gc.isenabled()
        gc.disable()  # records form no cycles, and looking for some takes longer than reading them
        try:
            return [self._record(line, number) for number, line in enumerate(lines, 1) if line]
        finally:
            if collecting:
                gc.enable()

    def _record(self, line: str, number: int) -> Record:
        try:
            return Record.model_validate_json(line)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise DamagedFileError(
                f"{self.root / TABLE} line {number} is damaged ({reason}); delete it, the run's folder keeps the record"
            ) from error

    def latest(self) -> list[Record]:
        """Return the record that counts for each identity, oldest first: the last done one, else the last failure."""
        chosen: dict[str, Record] = {}
        for record in self.records():
            before = chosen.get(record.identity)
            if before is None or record.status == "done" or before.status == "failed":
                chosen.pop(record.identity, None)
                chosen[record.identity] = record
        return list(chosen.values())

    def find(self, identity: str) -> Record | None:
        """Return the record of a run that is done, or None."""
        return next((r for r in self.latest() if r.identity == identity and r.status == "done"), None)

    def student_files(self, student: str, name: str) -> list[Path]:
        """Return the files called ``name`` in the folders of runs whose student has this id (by its first digits)."""
        return sorted(self.root.glob(f"*-{student[:8]}-????????/{name}"))
