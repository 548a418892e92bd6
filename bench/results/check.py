"""What is wrong with a store, and mending it without deleting anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tractbench.errors import DamagedFileError, StoreError
from tractbench.io.tensors import load_tensors
from tractbench.progress import Progress
from tractbench.results.format1 import read_table
from tractbench.results.index import INDEX
from tractbench.results.locks import exclusive, held
from tractbench.results.migrate import NewerRecordError
from tractbench.results.record import Record, counting
from tractbench.results.store import CELLS, CHECKPOINT, FORMAT, STUDENT, STUDENTS, Store, student_file
from tractbench.results.upgrade import upgrade

DAMAGED = "damaged"
"""Where repairing puts what it takes out of the store."""

Kind = Literal[
    "old format", "damaged record", "newer record", "no record", "repeated run", "damaged student", "missing student",
    "stale index", "leftover", "unfinished",
]  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Something wrong: its kind, the file or folder inside the store, and what to know or do about it."""

    kind: Kind
    path: str
    detail: str


def check(store: Store, progress: Progress, read_students: bool = True) -> list[Problem]:
    """Return what is wrong with a store, changing nothing.

    Args:
        store: the store.
        progress: told of students as they are read.
        read_students: whether to read all students' weights and compare them with their hash.
    """
    if store.format != FORMAT:
        _, damaged = read_table(store.root)
        text = f"a store of format {store.format} is only read; --repair migrates it"
        return [Problem("old format", ".", text), *(Problem("damaged record", INDEX, line) for line in damaged)]
    found: list[Problem] = []
    records: list[Record] = []
    for folder in store.cell_folders():
        try:
            records.append(store.read(folder))
        except FileNotFoundError:
            if not held(store.root / folder):
                found.append(Problem("no record", folder, "it did not end, and nobody is writing it; run it again"))
        except NewerRecordError as error:
            found.append(Problem("newer record", folder, str(error)))
        except DamagedFileError as error:
            found.append(Problem("damaged record", folder, str(error)))
    found += _repeated(records)
    found += _students(store, progress) if read_students else ()
    found += _missing_students(store, records)
    if not store.index_is_current():
        found.append(Problem("stale index", INDEX, "it differs from the folders; the next reading renews it"))
    found += [Problem("leftover", _inside(store, path), "half-written by a process that died") for path in _left(store)]
    found += _checkpoints(store)
    return found


def repair(store: Store, progress: Progress) -> list[str]:
    """Mend what can be mended, and return a line for each thing done.

    Damaged files, folders without a record and repeated runs go to ``damaged/``; a store of format 1 is migrated.

    Raises:
        StoreError: the store cannot be written, or is being written.
    """
    done: list[str] = []
    if store.format != FORMAT:
        store = upgrade(store, progress)
        done.append(f"migrated to format {FORMAT}: {len(store.records())} runs")
    for problem in check(store, progress):
        path = store.root / problem.path
        if problem.kind in ("damaged record", "no record", "repeated run"):
            done.append(_set_aside(store, path, path))
        elif problem.kind == "damaged student":
            done.append(_set_aside(store, path, path.parent))
        elif problem.kind == "leftover":
            path.unlink(missing_ok=True)
            done.append(f"removed {problem.path}")
    if not store.index_is_current():
        store.records()
        done.append(f"renewed {INDEX}")
    return done


def _repeated(records: list[Record]) -> Iterator[Problem]:
    """Find all but the one that counts of folders that say they are the same run."""
    folders = {record.identity: record.folder for record in counting(sorted(records, key=lambda r: r.created))}
    for record in records:
        if record.folder != folders[record.identity]:
            text = f"the run {record.identity[:8]} is also in {folders[record.identity]}, which counts"
            yield Problem("repeated run", record.folder, text)


def _students(store: Store, progress: Progress) -> Iterator[Problem]:
    """Read all weights, those that a cell keeps for itself too; a folder that somebody is in now is passed over."""
    files = [path for room in (STUDENTS, CELLS) for path in sorted((store.root / room).glob(f"*/{STUDENT}"))]
    files = [path for path in files if not held(path.parent)]
    with progress.task("reading students", len(files), "student") as task:
        for path in files:
            try:
                _, header = load_tensors(path, "run again with --force what needs it")
                if header.get("student") != path.parent.name and path.parent.parent.name == STUDENTS:
                    raise DamagedFileError(f"{path} is another student, {str(header.get('student'))[:8]}")
            except DamagedFileError as error:
                yield Problem("damaged student", _inside(store, path), str(error))
            task.advance()


def _missing_students(store: Store, records: list[Record]) -> Iterator[Problem]:
    for record in records:
        trained = record.status == "done" and record.config.schedule
        if trained and not student_file(store.root / record.folder, record.student, STUDENT).exists():
            text = f"student {record.student[:8]} is not here; run it again with --force if its weights are wanted"
            yield Problem("missing student", record.folder, text)


def _left(store: Store) -> Iterator[Path]:
    """Yield temporary files in folders that nobody writes."""
    folders = [store.root / name for name in store.cell_folders()]
    folders += sorted(path for path in (store.root / STUDENTS).glob("*") if path.is_dir())
    for folder in folders:
        left = sorted(folder.glob(".*.tmp"))
        if left and not held(folder):
            yield from left


def _checkpoints(store: Store) -> Iterator[Problem]:
    """Find checkpoints beside a finished student, where nobody trains: its own, or of training it again by --force."""
    for student in sorted((store.root / STUDENTS).glob(f"*/{STUDENT}")):
        left = sorted(student.parent.glob(f"*{CHECKPOINT}-*.safetensors"))
        if left and not held(student.parent):
            for path in left:
                if path.name.startswith(CHECKPOINT):
                    yield Problem("leftover", _inside(store, path), "its student is finished")
                else:
                    text = "a run with --force was stopped; the same command goes on, deleting it gives it up"
                    yield Problem("unfinished", _inside(store, path), text)


def _set_aside(store: Store, path: Path, folder: Path) -> str:
    """Move a file or folder out of the store, while nobody writes ``folder``."""
    name = _inside(store, path)
    target = store.root / DAMAGED / name
    number = 1
    while target.exists():
        number += 1
        target = store.root / DAMAGED / f"{name}.{number}"
    try:
        with exclusive(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    except OSError as error:
        raise StoreError(f"cannot move {path}: {error.strerror}; mend that and repeat this") from error
    return f"moved {name} to {_inside(store, target)}"


def _inside(store: Store, path: Path) -> str:
    return path.relative_to(store.root).as_posix()
