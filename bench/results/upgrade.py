"""Moving a store of format 1 to format 2; killed at any point, it is finished by being repeated."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tractbench.errors import DamagedFileError, StoreError
from tractbench.io.files import file_sha256, write_atomic
from tractbench.progress import Progress
from tractbench.results.format1 import TABLE, read_table, run_folders
from tractbench.results.locks import held
from tractbench.results.migrate import parse_record
from tractbench.results.record import Record, counting
from tractbench.results.store import CELLS, CONFIG, FORMAT, LOSSES, MARKER, RECORD, STUDENT, Store, portable

OLD_TABLE = "records-format1.jsonl"
"""What the table of format 1 is kept as: it may hold runs that were made again later."""


def upgrade(store: Store, progress: Progress) -> Store:
    """Move a store of format 1 to the current one: students, cells with their records, then what says its format.

    The old table stays what readers read until all is moved.

    Raises:
        StoreError: a run is being written in it, or it cannot be written.
        NewerRecordError: a newer tractbench has written one of its runs.
    """
    root = store.root
    busy = next((folder for folder in run_folders(root) if held(folder)), None)
    if busy is not None:
        raise StoreError(f"{busy} is being written by another process; wait for it and repeat this")
    try:
        runs = _runs(store)
        with progress.task("migrating", len(runs), "run") as task:
            for record, old in runs:
                _move_run(store, record, old)
                task.advance()
        for folder in run_folders(root):
            _move_unrecorded(store, folder)
        if (root / TABLE).exists() and not (root / OLD_TABLE).exists():
            write_atomic(root / OLD_TABLE, (root / TABLE).read_bytes())
        write_atomic(root / MARKER, json.dumps({"format": FORMAT}) + "\n")
    except OSError as error:
        raise StoreError(f"cannot migrate {root}: {error}; mend that and repeat this") from error
    migrated = Store(root)
    migrated.records()  # turns the table into an index; until then its lines are passed over
    return migrated


def _runs(store: Store) -> list[tuple[Record, Path]]:
    """Return the record that counts for each run, as the new store will hold it, and the folder that the run was in."""
    located = list(_records_in_folders(run_folders(store.root)))
    located += [(record, store.root / Path(record.folder).name) for record in read_table(store.root)[0]]
    located.sort(key=lambda one: one[0].created)
    folders = {record.identity: folder for record, folder in located}
    names = {
        folder.name: store.cell_folder(record.config, record.identity).relative_to(store.root).as_posix()
        for record, folder in located
    }
    runs = []
    for record in counting([record for record, _ in located]):
        old = folders[record.identity]
        origin = record.training.reused_from
        training = record.training.model_copy(update={"reused_from": Path(names.get(str(origin), str(origin))).name})
        changes = {"folder": names[old.name], "training": training if origin else record.training}
        runs.append((record.model_copy(update=changes), old))
    return runs


def _records_in_folders(folders: Iterable[Path]) -> Iterable[tuple[Record, Path]]:
    for folder in folders:
        path = folder / RECORD
        if path.is_file():
            try:
                yield parse_record(path.read_bytes(), path), folder
            except DamagedFileError:
                continue  # the table has it, or the check that follows sets it aside


def _move_run(store: Store, record: Record, old: Path) -> None:
    """Move a run's folder to its place, its student's files first; one that is gone is made of its record."""
    cell = store.root / record.folder
    if (cell / RECORD).exists():
        return
    text = record.model_dump_json(indent=2) + "\n"
    if old.is_dir():
        for name in (LOSSES, STUDENT):
            _move_student_file(old / name, store.student_folder(record.student) / name)
        write_atomic(old / RECORD, text)
        cell.parent.mkdir(exist_ok=True)
        old.rename(cell)
    else:
        write_atomic(cell / CONFIG, json.dumps(record.config.as_written(), indent=2) + "\n")
        write_atomic(cell / RECORD, text)


def _move_student_file(source: Path, target: Path) -> None:
    """Move a file to the student's folder; where another cell brought other bytes, it stays in its own cell."""
    if not source.exists():
        return
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    elif file_sha256(source) == file_sha256(target):
        source.unlink()


def _move_unrecorded(store: Store, folder: Path) -> None:
    """Move the folder of a run that never ended; its checkpoint is of an older training and stays in it."""
    cell = store.root / CELLS / portable(folder.name)
    cell.parent.mkdir(exist_ok=True)
    folder.rename(cell)
