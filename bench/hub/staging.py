"""Where files of a repository wait until all of them are there and known to be good: a folder of the cache."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tractbench.errors import DamagedFileError
from tractbench.hub.client import Hub
from tractbench.hub.failures import HubError
from tractbench.hub.outgoing import INCOMING
from tractbench.hub.remote import Snapshot
from tractbench.io.cache import cache_dir
from tractbench.progress import Progress
from tractbench.results.locks import LOCK, exclusive
from tractbench.results.record import Record
from tractbench.results.store import CELLS, MARKER, RECORD, Store, cell_name


class Staging:
    """Files of a results store on the Hub, in a folder that is a results store too.

    Args:
        hub: where they come from.
        snapshot: the repository at a commit.
        folder: where they wait; what is there from an interrupted pull and is the same at this commit is used.
    """

    def __init__(self, hub: Hub, snapshot: Snapshot, folder: Path) -> None:
        self._hub, self.snapshot, self.folder = hub, snapshot, folder
        good = store_files(snapshot)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            half = name == LOCK or name.startswith(".cache/")  # files that are being fetched
            if path.is_file() and not half and not (name in good and snapshot.files[name].holds(path)):
                path.unlink()

    def fetch(self, paths: Sequence[str], progress: Progress) -> None:
        """Bring files; see :meth:`.Hub.fetch`."""
        self._hub.fetch(self.snapshot, paths, self.folder, progress)

    def read(self, paths: Sequence[str], progress: Progress) -> dict[str, Record]:
        """Bring records and return them by path.

        Raises:
            DamagedFileError: one is damaged, or is not what its path says.
            NewerRecordError: a newer tractbench wrote one.
            StoreError: a newer tractbench wrote the store.
        """
        self.fetch([MARKER], Progress())
        self.fetch(paths, progress)
        store = Store(self.folder)
        store.require_writable()
        return {path: self._record(store, path) for path in paths}

    def store(self) -> Store:
        """Return what is there as a store."""
        return Store(self.folder)

    def _record(self, store: Store, path: str) -> Record:
        folder = path.removesuffix(f"/{RECORD}")
        record = store.read(folder)
        hashes = all(len(one) == 64 and not one.strip("0123456789abcdef") for one in (record.identity, record.student))
        # a record says where it is written to: it must not lead anywhere else
        if not hashes or folder != f"{CELLS}/{cell_name(record.config)}-{record.identity[:16]}":
            raise DamagedFileError(f"{self.snapshot.name}: {path} is the record of another run; nothing was taken")
        seeds = len(record.config.sampling_seeds)
        if any(len(metric.per_seed) != seeds for metric in record.metrics.values()):
            raise DamagedFileError(f"{self.snapshot.name}: {path} has not a score for each seed; nothing was taken")
        return record


@contextmanager
def staging(hub: Hub, snapshot: Snapshot) -> Iterator[Staging]:
    """Give a repository's files a folder of the cache, which is removed in the end unless something goes wrong.

    Raises:
        StoreError: another process is in it, or it cannot be written.
    """
    owner, _, name = snapshot.name.partition("/")
    folder = cache_dir() / "hub" / f"{snapshot.kind}s--{owner}--{name}"
    with exclusive(folder):
        yield Staging(hub, snapshot, folder)
        for path in folder.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def store_files(snapshot: Snapshot) -> list[str]:
    """Return the paths of a repository that are a store's."""
    return [path for path in sorted(snapshot.files) if INCOMING.fullmatch(path)]


def require_store(snapshot: Snapshot) -> None:
    """Raise HubError for a repository that holds no results store."""
    if MARKER not in snapshot.files:
        raise HubError(f"{snapshot.name} holds no results store; check its name")
