"""Sending a student as a model repository, and taking one: a folder as ``tractbench export`` writes it."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tractbench.errors import ConfigError, StoreError
from tractbench.hub.card import CARD
from tractbench.hub.client import Hub
from tractbench.hub.failures import HubError
from tractbench.hub.outgoing import SECRET
from tractbench.hub.remote import Snapshot, repository
from tractbench.hub.upload import Upload
from tractbench.io.files import unwritable
from tractbench.progress import Progress
from tractbench.results.locks import LOCK, exclusive
from tractbench.results.store import CELLS, LOG, STUDENT

TEXT = {".json", ".md", ".toml", ".txt", ".yaml", ".yml", ".csv", ".py"}
"""Endings of files that are read for what must not leave the machine."""


@dataclass(frozen=True)
class StudentPlan:
    """What sending a student would do.

    Attributes:
        upload: the files, as one group.
        there: paths of files that are there already.
        refused: paths of files that are there with other contents; with any, nothing is sent.
        own_card: a card that is there already stays, though it is another one.
    """

    upload: Upload
    there: tuple[str, ...]
    refused: tuple[str, ...]
    own_card: bool


def plan_student(hub: Hub, name: str, folder: Path, *, private: bool) -> StudentPlan:
    """Return what sending a folder with a student would do; nothing is sent.

    Args:
        hub: where to.
        name: OWNER/NAME of a model repository; one that is not there would be made.
        folder: the student as it was exported.
        private: whether a repository that is made is private.

    Raises:
        ConfigError: the name is none, the folder is empty or names a place of this machine or an access token, or
            private is asked of a public repository.
        HubError: the repository cannot be seen.
    """
    repository(name)
    if any((folder / name).exists() for name in (LOG, STUDENT)) or folder.resolve().parent.name == CELLS:
        raise ConfigError(f"{folder} is a results store's own and no export; name a run that is done")
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not files:
        raise ConfigError(f"{folder}: there is nothing in it; name a folder that 'tractbench export' wrote")
    _require_public(files)
    snapshot = hub.find(name, "model")
    if snapshot is not None and private and not snapshot.private:
        raise ConfigError(f"{name} is there and public; --private makes new ones only: make it private on its page")
    held = snapshot.files if snapshot else {}
    there = [path for path, file in files.items() if path in held and held[path].holds(file)]
    differ = [path for path in files if path in held and path not in there]
    new = {path: file for path, file in files.items() if path not in held}
    groups = (new,) if new else ()
    return StudentPlan(
        Upload(name, "model", snapshot, private, groups),
        tuple(there),
        tuple(path for path in differ if path != CARD),
        CARD in differ,
    )


def pull_student(hub: Hub, name: str, into: Path, *, revision: str | None, progress: Progress) -> tuple[Snapshot, bool]:
    """Bring a student into a folder, which appears once all files are there and compared with their hashes.

    Returns:
        The repository, and whether the folder was there already with just these files.

    Raises:
        ConfigError: the name is none.
        HubError: the repository cannot be seen, or holds no files.
        DamagedFileError: a file came with another hash.
        StoreError: the folder holds something else, or cannot be written.
    """
    snapshot = hub.look(repository(name), "model", revision)
    paths = [path for path in sorted(snapshot.files) if _plain(path)]
    if not paths:
        raise HubError(f"{name} holds no files; check its name")
    if into.exists():
        found = (
            {one.relative_to(into).as_posix() for one in into.rglob("*") if one.is_file()} if into.is_dir() else {""}
        )
        if found == set(paths) and all(snapshot.files[path].holds(into / path) for path in paths):
            return snapshot, True
        if found:
            raise StoreError(f"{into} is there with other files; name another folder with --into")
    part = into.with_name(f".{into.name}.part")
    try:
        with exclusive(part):
            for old in sorted(part.rglob("*")):
                inside = old.relative_to(part)
                if old.is_file() and inside.parts[0] not in (LOCK, ".cache") and inside.as_posix() not in paths:
                    old.unlink()
            hub.fetch(snapshot, paths, part, progress)
            shutil.rmtree(part / ".cache", ignore_errors=True)
        (part / LOCK).unlink(missing_ok=True)
        if into.is_dir():
            into.rmdir()
        part.rename(into)
    except OSError as error:
        raise unwritable(into, error) from error
    return snapshot, False


def _plain(path: str) -> bool:
    """Whether a path leads to a file inside the folder, and not to a hidden one."""
    parts = PurePosixPath(path).parts
    return (
        not path.startswith("/") and "\\" not in path and ":" not in path and not any(p.startswith(".") for p in parts)
    )


def _require_public(files: dict[str, Path | bytes]) -> None:
    """Raise ConfigError if a text file names the home folder, the working folder or an access token."""
    places = [str(place) for place in (Path.home(), Path.cwd(), Path(tempfile.gettempdir())) if len(place.parts) > 1]
    pattern = re.compile("|".join(re.escape(place) + r"(?=[/\\\s\"',;:)]|$)" for place in places) or "(?!)")
    for path, file in files.items():
        if PurePosixPath(path).suffix not in TEXT:
            continue
        text = (file if isinstance(file, bytes) else file.read_bytes()).decode(errors="replace")
        if found := pattern.search(text):
            raise ConfigError(f"{path} names {found[0]} of this machine; it is not sent: take that out of it")
        if found := SECRET.search(text):
            raise ConfigError(f"{path} holds an access token ({found[0][:6]}...); it is not sent: take that out of it")
