"""Taking a results store from the Hub into a folder: all of it that fits, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tractbench.errors import DamagedFileError
from tractbench.hub.client import Hub
from tractbench.hub.outgoing import PICTURES, public
from tractbench.hub.remote import Snapshot, repository
from tractbench.hub.staging import Staging, require_store, staging, store_files
from tractbench.io.files import write_atomic
from tractbench.progress import Progress
from tractbench.results.merge import compare, merge
from tractbench.results.plans import PLANS, registered_plans, registered_text
from tractbench.results.record import Record
from tractbench.results.store import LOSSES, RECORD, STUDENT, Store, record_text, student_file


@dataclass(frozen=True)
class Pulled:
    """What taking a store did, or would do.

    Attributes:
        commit: what was taken.
        copied: folders of runs that were not here.
        replaced: folders of runs that had failed here, and are done there.
        skipped: folders of runs that were here already.
        refused: a line for each run that is here with other scores or weights; with any, nothing was written.
        files: bytes by path of what was fetched for it, records aside.
    """

    commit: str
    copied: tuple[str, ...]
    replaced: tuple[str, ...]
    skipped: tuple[str, ...]
    refused: tuple[str, ...]
    files: dict[str, int]


def pull_store(
    hub: Hub, name: str, into: Path, *, students: bool, revision: str | None, dry_run: bool, progress: Progress
) -> Pulled:
    """Bring the runs of a results store on the Hub into one here, which may be there or not.

    Args:
        hub: where from.
        name: OWNER/NAME of a dataset repository.
        into: the results folder; it is written once everything is fetched, compared with its hash and without conflict.
        students: whether weights are brought too.
        revision: branch, tag or commit, None for the newest.
        dry_run: only records are fetched, and nothing is written.
        progress: told of what is fetched.

    Raises:
        ConfigError: the name is none.
        HubError: the repository cannot be seen, or holds no results store.
        DamagedFileError: a file is not as it was written, or came with another hash.
        StoreError: the folder is no results store, cannot be written, or a newer tractbench wrote what is there.
    """
    snapshot = hub.look(repository(name), "dataset", revision)
    require_store(snapshot)
    store = Store(into, create=True)
    store.require_writable()
    with staging(hub, snapshot) as stage:
        return _Pull(store, stage, students, progress).run(dry_run)


class _Pull:
    """A pull in progress."""

    def __init__(self, store: Store, stage: Staging, students: bool, progress: Progress) -> None:
        self.store, self.stage, self.students, self.progress = store, stage, students, progress
        self.snapshot: Snapshot = stage.snapshot

    def run(self, dry_run: bool) -> Pulled:
        """Fetch records, then, unless one is in conflict, what belongs to those that are not here; then merge."""
        there = [path for path in store_files(self.snapshot) if path.endswith(f"/{RECORD}")]
        same = [path for path in there if self._is_here(path)]
        records = self.stage.read([path for path in there if path not in same], self.progress)
        fates = {path: compare(self._here(path), record) for path, record in records.items()}
        refused = [
            f"{path.removesuffix(f'/{RECORD}')}: the same run has other scores in {self.store.root}; compare their "
            f"{RECORD}, or pull --into another folder"
            for path, fate in fates.items()
            if fate == "conflict"
        ]
        skipped = [path for path in there if fates.get(path, "skip") == "skip"]
        bare = [path for path in skipped if self._lacks_student(path)]
        wanted = [] if refused else [path for path, fate in fates.items() if fate != "skip"] + bare
        files = {path: self.snapshot.files[path].size for one in wanted for path in self._files(one, one in bare)}
        if wanted and not dry_run:
            self.stage.read(bare, self.progress)  # so that their students are merged
            self.stage.fetch(list(files), self.progress)
            merged = merge(self.store, [self.stage.store()], self.progress, whole=True)
            refused = [line.removeprefix(f"{self.stage.folder}/") for line in merged.refused]
        if not refused and not dry_run:
            self._plans()
        folders = {path: path.removesuffix(f"/{RECORD}") for path in there}
        return Pulled(
            self.snapshot.commit,
            tuple(folders[path] for path in wanted if fates.get(path) == "copy"),
            tuple(folders[path] for path in wanted if fates.get(path) == "replace"),
            tuple(folders[path] for path in skipped),
            tuple(refused),
            files,
        )

    def _here(self, path: str) -> Record | None:
        try:
            return self.store.read(path.removesuffix(f"/{RECORD}"))
        except FileNotFoundError:
            return None

    def _is_here(self, path: str) -> bool:
        """Whether a record is here as it would be sent from here."""
        here = self._here(path)
        return here is not None and self.snapshot.files[path].holds(record_text(public(here)).encode())

    def _lacks_student(self, path: str) -> bool:
        here = self._here(path)
        if not self.students or here is None or here.status != "done":
            return False
        absent = not student_file(self.store.root / here.folder, here.student, STUDENT).exists()
        return absent and f"students/{here.student}/{STUDENT}" in self.snapshot.files

    def _files(self, path: str, student_only: bool) -> list[str]:
        """Return what belongs to a record and is not here."""
        record = self._here(path) if student_only else self.stage.store().read(path.removesuffix(f"/{RECORD}"))
        assert record is not None
        paths = [] if student_only else [f"{record.folder}/{name}" for name in PICTURES]
        if self.students and record.status == "done":
            folders = (f"students/{record.student}", record.folder)
            paths += [f"{folder}/{name}" for folder in folders for name in (LOSSES, STUDENT)]
        here = self.store.root
        return [
            one
            for one in paths
            if one in self.snapshot.files
            and not ((here / one).is_file() and self.snapshot.files[one].holds(here / one))
        ]

    def _plans(self) -> None:
        """Bring registered plans that are not here."""
        paths = [path for path in store_files(self.snapshot) if path.startswith(f"{PLANS}/")]
        missing = [path for path in paths if not (self.store.root / path).exists()]
        self.stage.fetch(missing, self.progress)
        plans, damaged = registered_plans(self.stage.folder)
        if damaged:
            raise DamagedFileError(damaged[0])
        self.store.make()
        for plan in plans:
            path = self.store.root / PLANS / f"{plan.sha256}.json"
            if not path.exists():
                write_atomic(path, registered_text(plan))
