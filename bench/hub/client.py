"""The Hub, as much of it as is needed: look at a repository, fetch files of it, commit files to it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.hub.failures import HubError, told
from tractbench.hub.remote import Kind, RemoteFile, Snapshot
from tractbench.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub import HfApi

THREADS = 8
BATCH_FILES, BATCH_BYTES = 256, 512 * 2**20
"""What one commit holds at most, if it is more than one group of files."""


class Hub:
    """The Hub at the user's endpoint (``HF_ENDPOINT``), with the user's own token where there is one.

    Attributes:
        endpoint: its address.
        token: the user's token, None without one.

    Raises:
        ConfigError: huggingface_hub is not installed, the endpoint is no address, or the token cannot be read.
    """

    def __init__(self) -> None:
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as error:
            raise ConfigError("this needs huggingface_hub; pip install 'tractbench[hub]'") from error
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        if not self.endpoint.startswith(("https://", "http://")):
            raise ConfigError(f"HF_ENDPOINT {self.endpoint!r}: give an address that begins with https:// or http://")
        try:
            self.token = get_token()
        except OSError as error:
            raise ConfigError(
                f"cannot read the Hub's token, {error.filename}: {error.strerror}; set HF_TOKEN"
            ) from error
        self._api: HfApi = HfApi(endpoint=self.endpoint, token=self.token, library_name="tractbench")

    def require_token(self) -> None:
        """Raise ConfigError for a user who is not logged in."""
        if self.token is None:
            raise ConfigError("nothing was sent, as there is no token: log in with 'hf auth login', or set HF_TOKEN")

    def look(self, name: str, kind: Kind, revision: str | None = None) -> Snapshot:
        """Return what a repository holds, at the newest commit or at that of a branch, tag or commit.

        Raises:
            HubError: it cannot be seen.
        """
        found = self.find(name, kind, revision)
        if found is None:
            raise HubError(
                f"{name} at {self.endpoint}: no {kind} of that name"
                f"{f' or no revision {revision}' if revision else ''}, or it is private and not yours to see"
            )
        return found

    def find(self, name: str, kind: Kind, revision: str | None = None) -> Snapshot | None:
        """Return what a repository holds, None if there is none; see :meth:`look`."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        with self._quiet(), told(name, self.endpoint):
            try:
                info = self._api.repo_info(name, repo_type=kind, revision=revision)
                entries = list(self._api.list_repo_tree(name, repo_type=kind, revision=info.sha, recursive=True))
            except (RepositoryNotFoundError, RevisionNotFoundError) as error:
                if error.response.status_code == 404:
                    return None
                raise
        if info.sha is None:
            raise HubError(f"{name} at {self.endpoint}: it has no commit; delete it, and it is made anew")
        files = {}
        for entry in entries:
            if (blob := getattr(entry, "blob_id", None)) is not None:  # a folder has none
                large = getattr(entry, "lfs", None)
                size = getattr(entry, "size", 0)
                files[entry.path] = RemoteFile(size, blob, None if large is None else large.sha256)
        return Snapshot(name, kind, info.sha, bool(info.private), files)

    def fetch(self, snapshot: Snapshot, paths: Sequence[str], folder: Path, progress: Progress) -> None:
        """Bring files of a repository into a folder and compare each with its hash; what is there is not fetched.

        Interrupted, it goes on with the files that are missing.

        Raises:
            DamagedFileError: one came with other contents; it is not kept.
            HubError: the Hub refused, or was not reached.
        """
        wanted = [path for path in paths if not _is_there(folder / path, snapshot.files[path])]
        if not wanted:
            return
        total = sum(snapshot.files[path].size for path in wanted)
        with self._quiet(), progress.task(f"fetching {snapshot.name}", total, "B") as task:
            pool = ThreadPoolExecutor(THREADS)
            try:
                jobs = {pool.submit(self._fetch_one, snapshot, path, folder): path for path in wanted}
                for job in as_completed(jobs):
                    job.result()
                    task.advance(snapshot.files[jobs[job]].size, jobs[job].rsplit("/", 1)[-1])
            finally:
                pool.shutdown(cancel_futures=True)

    def _fetch_one(self, snapshot: Snapshot, path: str, folder: Path) -> None:
        from huggingface_hub import hf_hub_download

        with told(snapshot.name, self.endpoint):
            hf_hub_download(
                snapshot.name, path, repo_type=snapshot.kind, revision=snapshot.commit, local_dir=folder,
                endpoint=self.endpoint, token=self.token, library_name="tractbench",
            )  # fmt: skip
        if not snapshot.files[path].holds(folder / path):
            (folder / path).unlink()
            raise DamagedFileError(
                f"{snapshot.name}: {path} came with other contents than its hash says; it was not kept, fetch it again"
            )

    def create(self, name: str, kind: Kind, private: bool) -> Snapshot:
        """Make a repository and return it as it begins.

        Raises:
            HubError: the Hub refused, or was not reached.
        """
        with self._quiet(), told(name, self.endpoint):
            self._api.create_repo(name, repo_type=kind, private=private, exist_ok=False)
        return self.look(name, kind)

    def commit(
        self, snapshot: Snapshot, groups: Sequence[Mapping[str, Path | bytes]], message: str, progress: Progress
    ) -> str:
        """Send files in commits of whole groups, each on top of the one before, and return the last commit.

        What the Hub has by its hash is not sent again. Interrupted, what was committed stays.

        Args:
            snapshot: the repository as it was seen; changed by somebody else since, it takes nothing more.
            groups: contents by path; the files of a group are of use together only.
            message: of the commits.
            progress: told of bytes.

        Raises:
            ChangedRepositoryError: somebody else changed the repository.
            HubError: the Hub refused, was not reached, or does not hold what was sent.
        """
        from huggingface_hub import CommitOperationAdd

        commit = snapshot.commit
        total = sum(size_of(content) for group in groups for content in group.values())
        with self._quiet(), progress.task(f"sending to {snapshot.name}", total, "B") as task:
            for batch in _batches(groups):
                with told(snapshot.name, self.endpoint):
                    operations = [
                        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
                        for path, content in batch.items()
                    ]
                    commit = self._api.create_commit(
                        snapshot.name, operations, commit_message=message, repo_type=snapshot.kind,
                        parent_commit=commit,
                    ).oid  # fmt: skip
                task.advance(sum(map(size_of, batch.values())))
        held = self.look(snapshot.name, snapshot.kind, commit).files
        for group in groups:
            for path, content in group.items():
                if path not in held or not held[path].holds(content):
                    raise HubError(
                        f"{snapshot.name} does not hold {path} as it was sent; see its .gitignore, or try again"
                    )
        return commit

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep huggingface_hub's own bars and remarks off the terminal: ours are there."""
        from huggingface_hub.utils import logging as remarks
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        disabled, verbosity = are_progress_bars_disabled(), remarks.get_verbosity()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            disable_progress_bars()
            remarks.set_verbosity(logging.CRITICAL)
            try:
                yield
            finally:
                remarks.set_verbosity(verbosity)
                if not disabled:
                    enable_progress_bars()


def _is_there(path: Path, remote: RemoteFile) -> bool:
    return path.is_file() and remote.holds(path)


def size_of(content: Path | bytes) -> int:
    """Return the bytes of contents in a file or in memory."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _batches(groups: Sequence[Mapping[str, Path | bytes]]) -> Iterator[dict[str, Path | bytes]]:
    """Yield commits' files: as many groups at once as the limits allow, at least one."""
    batch: dict[str, Path | bytes] = {}
    size = 0
    for group in groups:
        own = sum(map(size_of, group.values()))
        if batch and (len(batch) + len(group) > BATCH_FILES or size + own > BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch |= group
        size += own
    if batch:
        yield batch
