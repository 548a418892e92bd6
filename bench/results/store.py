"""The store: a folder of students and of cells, each cell with the record that is the truth about it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tractbench.config.fields import RunConfig
from tractbench.errors import DamagedFileError, StoreError, TractbenchError
from tractbench.io.files import write_atomic
from tractbench.io.seals import sealed
from tractbench.results.format1 import read_table, run_folders
from tractbench.results.index import Entry, Index, without_collection
from tractbench.results.locks import exclusive, in_turn
from tractbench.results.migrate import parse_record
from tractbench.results.record import Record, RecordedConfig, counting

FORMAT = 2
MARKER = "tractbench-store.json"
CELLS = "cells"
STUDENTS = "students"
SUITES = "suite"
"""Where each suite keeps what it says of itself and its jobs' files; none of it is needed for results."""

CONFIG = "config.json"
RECORD = "record.json"
LOG = "log.txt"
PICTURE = "samples.png"
GRID = "grid.png"
"""Samples of the first sampling seed, pixel for pixel."""
TEACHER_GRID = "teacher-grid.png"
"""The same noises through the teacher in all its steps."""

STUDENT = "student.safetensors"
CHECKPOINT = "checkpoint"
"""What the names of checkpoints begin with."""
LOSSES = "loss.csv"
LOSSES_HASH = "losses_sha256"
"""Where the header of a student's weights has the hash of its loss curve."""


class Store:
    """Results of many runs.

    ``students/<student id>/`` holds what training leaves, ``cells/<name>-<identity>/`` what a run of that student does.
    A store of format 1 can be read only.

    Args:
        root: the store's folder.
        create: it may be missing or empty; it is made when the first run starts.

    Attributes:
        damaged: files that the last reading passed over, each with the reason.

    Raises:
        StoreError: the folder is not a store, is one of a newer format, or cannot be read.
        DamagedFileError: the file that says that it is a store says something else.
    """

    def __init__(self, root: Path, create: bool = False) -> None:
        self.root = root
        self.format = FORMAT
        self.damaged: list[str] = []
        self._index = Index(root)
        marker = root / MARKER
        try:
            if marker.is_file():
                self.format = _read_marker(marker)
                return
            if root.exists() and (not root.is_dir() or _occupied(root)) and not marker.is_file():
                raise StoreError(f"{root} is not empty and not a tractbench store; choose another --runs folder")
        except OSError as error:
            raise StoreError(f"cannot read {root}: {error.strerror}; choose another --runs folder") from error
        if not create:
            raise StoreError(f"no results in {root}; make some with 'tractbench run', or name their folder with --runs")

    @property
    def exists(self) -> bool:
        """Whether anything was ever written to it."""
        return (self.root / MARKER).is_file()

    @property
    def cache(self) -> Path:
        """Folder of what can be computed again."""
        return self.root / "cache"

    @property
    def _remedy(self) -> str:
        return f"tractbench store check --repair --runs {self.root}"

    def require_writable(self) -> None:
        """Raise StoreError for a store of format 1, which is only read."""
        if self.format != FORMAT:
            raise StoreError(f"{self.root} is a store of format {self.format}; migrate it: {self._remedy}")

    def cell_folder(self, config: RunConfig | RecordedConfig, identity: str) -> Path:
        """Return the folder of a run: the name says what it is, the identity's first 16 digits make it unique."""
        return self.root / CELLS / f"{cell_name(config)}-{identity[:16]}"

    def _place(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def student_folder(self, student: str) -> Path:
        """Return the folder of a student by its id."""
        return self.root / STUDENTS / student

    @contextmanager
    def lock_cell(self, folder: Path) -> Iterator[None]:
        """Keep a second process out of a run's folder; what a killed one left half-written there is removed.

        Raises:
            StoreError: another process is in it, or it cannot be written.
        """
        self.make()
        with exclusive(folder):
            yield

    @contextmanager
    def lock_suite(self, name: str) -> Iterator[Path]:
        """Give a suite a folder of its own, locked for as long as it lives.

        Raises:
            StoreError: another process is in it, or it cannot be written.
        """
        self.make()
        folder = self.root / SUITES / name
        with exclusive(folder):
            yield folder

    def lock_student(
        self, student: str, owner: str, wait: Callable[[str], None], stop: Callable[[], bool]
    ) -> AbstractContextManager[None]:
        """Keep other processes out of a student's folder, after waiting for whoever trains it; see :func:`.in_turn`."""
        self.make()
        return in_turn(self.student_folder(student), owner, wait, stop)

    def write(self, record: Record) -> None:
        """Record how a run ended; the newest end counts, but a done run stays done: a later failure is only logged.

        Raises:
            StoreError: it cannot be written, or a newer tractbench has written this run.
        """
        self.make()
        folder = self.root / record.folder
        before = self._read(record.folder)
        if record.status != "done" and before is not None and before.status == "done":
            self.log(folder, f"{record.status}: {record.reason}; the earlier result stays")
            return
        write_atomic(folder / RECORD, record_text(record))
        self._index.append(_entry(record, (folder / RECORD).stat()))

    def log(self, folder: Path, text: str) -> None:
        """Add lines to a run's log, each with the time (UTC).

        Raises:
            StoreError: it cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("a", encoding="utf-8", newline="\n") as handle:
                handle.write("".join(f"{now} {line}\n" for line in text.splitlines()))
        except OSError as error:
            raise StoreError(f"cannot write {folder / LOG}: {error.strerror}; choose another --runs folder") from error

    def records(self) -> list[Record]:
        """Return the record of each run, oldest first; what cannot be read is left out and named in ``damaged``.

        The index is brought up to date on the way, where it can be written.
        """
        if self.format != FORMAT:
            records, self.damaged = read_table(self.root)
            if (self.root / CELLS).exists():
                self.damaged.append(f"{self.root} is migrated in part; finish it: {self._remedy}")
            return counting(records)
        entries, current = self._scan()
        if not current:
            self._index.rewrite(entries)
        entries.sort(key=lambda entry: (entry.record.created, entry.mtime_ns, entry.folder))
        return counting([entry.record for entry in entries])

    def index_is_current(self) -> bool:
        """Whether the index says what the folders do."""
        return self._scan()[1]

    def find(self, identity: str, config: RunConfig | None = None) -> Record | None:
        """Return the record of a run that is done, or None, without reading any other.

        Args:
            identity: its id.
            config: its configuration, which says the name of its folder, so that no other is looked at.

        Raises:
            NewerRecordError: a newer tractbench has written this run.
        """
        if self.format != FORMAT:
            return next((r for r in self.records() if r.identity == identity and r.status == "done"), None)
        here = self.cell_folders() if config is None else [self._place(self.cell_folder(config, identity))]
        for folder in here:
            if folder.endswith(f"-{identity[:16]}"):
                record = self._read(folder)
                if record is not None and record.identity == identity and record.status == "done":
                    return record
        return None

    def cell_folders(self) -> list[str]:
        """Return the folders of all cells, as records name them, by name."""
        try:
            with os.scandir(self.root / CELLS) as found:
                return sorted(f"{CELLS}/{one.name}" for one in found if one.name[0] != "." and one.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot read {self.root / CELLS}: {error.strerror}") from error

    def read(self, folder: str) -> Record:
        """Return the record of a cell's folder.

        Raises:
            FileNotFoundError: it has none.
            DamagedFileError: it cannot be read.
            NewerRecordError: a newer tractbench has written it.
        """
        path = self.root / folder / RECORD
        try:
            record = parse_record(path.read_bytes(), path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DamagedFileError(f"{path} cannot be read ({error.strerror})") from error
        return record if record.folder == folder else record.model_copy(update={"folder": folder})

    def _read(self, folder: str) -> Record | None:
        """Return the record of a cell's folder, None if there is none that can be read."""
        try:
            return self.read(folder)
        except (FileNotFoundError, DamagedFileError):
            return None

    def _scan(self) -> tuple[list[Entry], bool]:
        """Return an entry for each cell that has a record, and whether the index had just these."""
        self.damaged = []
        indexed = self._index.read()
        entries: list[Entry] = []
        read_anew = 0
        with without_collection():
            for folder in self.cell_folders():
                try:
                    stat = os.stat(f"{self.root}/{folder}/{RECORD}")  # noqa: PTH116 - ten thousand Paths take their time
                except OSError:
                    continue
                entry = indexed.entries.get(folder)
                if entry is None or (entry.mtime_ns, entry.size) != (stat.st_mtime_ns, stat.st_size):
                    try:
                        entry = _entry(self.read(folder), stat)
                    except (TractbenchError, FileNotFoundError) as error:
                        self.damaged.append(str(error))
                        continue
                    read_anew += 1
                entries.append(entry)
        return entries, not (indexed.untidy or read_anew or len(entries) != len(indexed.entries))

    def make(self) -> None:
        """Make it, if it is not there.

        Raises:
            StoreError: it cannot be written, or is only read.
        """
        self.require_writable()
        if not self.exists:
            write_atomic(self.root / MARKER, json.dumps({"format": FORMAT}) + "\n")


def record_text(record: Record) -> str:
    """Return the text of a record's file: JSON with its seal."""
    return json.dumps(sealed(json.loads(record.model_dump_json())), indent=2) + "\n"


def _occupied(root: Path) -> bool:
    """Whether anything lies in a folder but a marker that another process is writing, or was when it was killed."""
    return any(not re.fullmatch(rf"\.{re.escape(MARKER)}\..*\.tmp", path.name) for path in root.iterdir())


def cell_name(config: RunConfig | RecordedConfig) -> str:
    """Return what a run is, as the start of its folder's name."""
    return portable(f"{config.method}-{config.dataset}-{config.tier}-nfe{config.nfe}-seed{config.seed}")


def portable(name: str) -> str:
    """Return a name that every file system takes, whatever it makes of case."""
    return re.sub(r"[^a-z0-9._-]", "-", name.lower()).strip(".")


def student_file(cell: Path, student: str, name: str) -> Path:
    """Return where a file of a student lies, be it there or not.

    Args:
        cell: the folder of a run, in a store of any format.
        student: the id of the run's student.
        name: ``STUDENT`` or ``LOSSES``.
    """
    own = cell / name  # format 1, or weights that differ from those of the other cells of this student
    inside = cell.absolute().parent
    return own if own.exists() or inside.name != CELLS else inside.parent / STUDENTS / student / name


def _entry(record: Record, stat: os.stat_result) -> Entry:
    return Entry(folder=record.folder, mtime_ns=stat.st_mtime_ns, size=stat.st_size, record=record)


def _read_marker(marker: Path) -> int:
    try:
        number = json.loads(marker.read_text(encoding="utf-8-sig"))["format"]
        if not isinstance(number, int) or number < 1:
            raise ValueError(number)
    except (ValueError, KeyError, TypeError) as error:
        likely = 1 if run_folders(marker.parent) else FORMAT
        raise DamagedFileError(f'{marker} is damaged; write {{"format": {likely}}} into it') from error
    if number > FORMAT:
        raise StoreError(
            f"{marker.parent} (format {number}) was written by a newer tractbench; upgrade, or choose another --runs"
        )
    return number
