"""Bringing the runs of other stores into one; killed at any point, it is finished by being repeated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tractbench.errors import TractbenchError
from tractbench.io.files import write_atomic
from tractbench.io.tensors import load_tensors, tensors_digest
from tractbench.progress import Progress
from tractbench.results.locks import exclusive
from tractbench.results.record import Record
from tractbench.results.store import CHECKPOINT, CONFIG, LOSSES, RECORD, STUDENT, Store, student_file

STUDENT_FILES = (LOSSES, STUDENT)
"""In the order they are copied: weights last, since a folder that has them is complete."""


class RefusedError(TractbenchError):
    """A cell that is not merged, since what is here says otherwise."""


@dataclass
class Merged:
    """What merging did, by the folders of cells in the store that was merged into.

    Attributes:
        copied: cells that were not here.
        replaced: cells that had failed or been interrupted here, and are done there.
        skipped: cells that were here already.
        refused: a line for each cell that was left out, with the reason.
    """

    copied: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def merge(into: Store, others: Sequence[Store], progress: Progress, *, whole: bool = False) -> Merged:
    """Copy the cells of other stores, of any format, and their students.

    A cell that is here with the same scores is skipped, and only its student is brought if its weights are not here;
    one with other scores, or whose student has other weights than here or is damaged, is refused, and nothing of it is
    written. What of the others cannot be read is in their ``damaged``.

    Args:
        into: the store that is copied to.
        others: those that are copied from.
        progress: told of each cell.
        whole: if any cell is refused, nothing at all is written.

    Raises:
        StoreError: the store is only read.
    """
    into.require_writable()
    found = [(other, record) for other in others for record in other.records()]
    merging = _Merging(into)
    for step in (merging.check, merging.cell) if whole else (merging.cell,):
        with progress.task("comparing" if step == merging.check else "merging", len(found), "run") as task:
            for other, record in found:
                try:
                    step(other, record)
                except TractbenchError as error:
                    merging.merged.refused.append(f"{other.root / record.folder}: {error}")
                task.advance()
        if merging.merged.refused:
            break
    return merging.merged


def compare(here: Record | None, there: Record) -> Literal["copy", "replace", "skip", "conflict"]:
    """Return what becomes of a run of another store beside the same run here, None if it is not here.

    A done run replaces one that is not; two done ones with other scores are in conflict.
    """
    if here is None:
        return "copy"
    if there.status != "done":
        return "skip"
    if here.status != "done":
        return "replace"
    return "skip" if _scores(here) == _scores(there) else "conflict"


class _Merging:
    """A merge in progress; it remembers the weights it has read."""

    def __init__(self, into: Store) -> None:
        self.into = into
        self.merged = Merged()
        self._digests: dict[Path, str] = {}

    def check(self, other: Store, record: Record) -> None:
        """Raise RefusedError for a cell that would be refused, DamagedFileError for one with damaged weights."""
        here = self._here(record)
        source = other.root / record.folder
        if self._fate(here, record) != "skip" or self._brings_student(source, record):
            self._student_files(source, record)

    def cell(self, other: Store, record: Record) -> None:
        """Copy a cell and, before it, its student."""
        cell = self.into.cell_folder(record.config, record.identity)
        folder = cell.relative_to(self.into.root).as_posix()
        here = self._here(record)
        source = other.root / record.folder
        if self._fate(here, record) == "skip":
            if self._brings_student(source, record):
                self._student(source, record)
            self.merged.skipped.append(folder)
            return
        self._student(source, record)
        with self.into.lock_cell(cell):
            for path in sorted(source.iterdir()) if source.is_dir() else ():
                if path.is_file() and path.name[0] != "." and path.name not in (RECORD, *STUDENT_FILES):
                    _copy(path, cell / path.name)
            if not (cell / CONFIG).exists():
                write_atomic(cell / CONFIG, json.dumps(record.config.as_written(), indent=2) + "\n")
            self.into.write(record.model_copy(update={"folder": folder}))  # last: without it a folder is no run
        (self.merged.copied if here is None else self.merged.replaced).append(folder)

    def _here(self, record: Record) -> Record | None:
        folder = self.into.cell_folder(record.config, record.identity).relative_to(self.into.root).as_posix()
        try:
            return self.into.read(folder)
        except FileNotFoundError:
            return None

    def _fate(self, here: Record | None, record: Record) -> Literal["copy", "replace", "skip"]:
        fate = compare(here, record)
        if fate == "conflict":
            cell = self.into.cell_folder(record.config, record.identity)
            raise RefusedError(f"the same run has other scores in {cell}; compare their record.json, delete one")
        return fate

    def _brings_student(self, source: Path, record: Record) -> bool:
        """Whether the weights of a done run are there, and not here."""
        here = student_file(self.into.cell_folder(record.config, record.identity), record.student, STUDENT)
        there = student_file(source, record.student, STUDENT)
        return record.status == "done" and there.exists() and not here.exists()

    def _student(self, source: Path, record: Record) -> None:
        """Copy a cell's student, if it is not here."""
        folder = self.into.student_folder(record.student)
        files = self._student_files(source, record)
        if files:
            with exclusive(folder):
                for path in files:
                    _copy(path, folder / path.name)

    def _student_files(self, source: Path, record: Record) -> list[Path]:
        """Return the files of a cell's student that are to be copied, and see that one here has the same weights."""
        weights = student_file(source, record.student, STUDENT)
        folder = self.into.student_folder(record.student)
        if (folder / STUDENT).exists():
            if weights.exists() and self._digest(folder / STUDENT) != self._digest(weights):
                raise RefusedError(f"its student {record.student[:8]} has other weights in {folder}")
            return []
        if weights.exists():
            self._digest(weights)  # damaged weights are refused
        files = [student_file(source, record.student, LOSSES), weights]
        if not weights.exists():  # what an interrupted run goes on from
            files = sorted(weights.parent.glob(f"{CHECKPOINT}-*.safetensors"))
        return [path for path in files if path.exists()]

    def _digest(self, path: Path) -> str:
        """Return the sha256 of a student's tensors, whatever its header says of how long they took."""
        if path not in self._digests:
            tensors, _ = load_tensors(path, "see 'tractbench store check' on that store")
            self._digests[path] = tensors_digest(tensors)
        return self._digests[path]


def _scores(record: Record) -> str:
    return json.dumps({name: metric.per_seed for name, metric in record.metrics.items()}, sort_keys=True)


def _copy(source: Path, target: Path) -> None:
    write_atomic(target, lambda temporary: _copy_bytes(source, temporary))


def _copy_bytes(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
