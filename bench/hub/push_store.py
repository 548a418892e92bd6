"""Sending a results store: what would be sent, and sending it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tractbench.errors import ConfigError, StoreError
from tractbench.hub.card import CARD, store_card
from tractbench.hub.client import Hub
from tractbench.hub.failures import HubError
from tractbench.hub.outgoing import INCOMING, Outgoing, outgoing_rest, outgoing_runs
from tractbench.hub.remote import repository
from tractbench.hub.staging import Staging, staging
from tractbench.hub.upload import Upload
from tractbench.io.tensors import load_tensors, tensors_digest
from tractbench.progress import Progress
from tractbench.results.merge import compare
from tractbench.results.record import Record
from tractbench.results.store import MARKER, RECORD, STUDENT, Store


@dataclass(frozen=True)
class StorePlan:
    """What sending a store would do.

    Attributes:
        upload: the files, in groups of which each is a whole run.
        sent: folders of runs whose files are sent.
        there: folders of runs that are there already, with the same scores.
        left_out: a line for each run that cannot be sent, with the reason.
        refused: a line for each run that is there with other scores or weights; with any, nothing is sent.
        own_card: the card that is there was written by its owner, and stays.
    """

    upload: Upload
    sent: tuple[str, ...] = ()
    there: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    own_card: bool = False


@dataclass
class _Planning:
    """A plan in progress; without a stage the repository holds nothing yet."""

    store: Store
    name: str
    stage: Staging | None
    progress: Progress
    groups: list[Mapping[str, Path | bytes]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    planned: set[str] = field(default_factory=set)

    def add(self, run: Outgoing, theirs: Record | None) -> None:
        """Decide what is sent of a run, whose record there is another one or None."""
        folder = run.record.folder
        fate = compare(theirs, run.record)
        weights = f"students/{run.record.student}/{STUDENT}"
        if fate == "conflict":
            self.refused.append(f"{self.store.root / folder}: the same run has other scores in {self.name}")
            return
        if (fate != "skip" or weights in run.student) and not self._same_weights(run, weights):
            text = f"its student {run.record.student[:8]} has other weights in {self.name}"
            self.refused.append(f"{self.store.root / folder}: {text}")
            return
        student = {} if self._is_there(weights) and weights in run.student else run.student
        pictures = {path: file for path, file in run.pictures.items() if fate != "skip" or not self._is_there(path)}
        record = {run.path: run.content} if fate != "skip" else {}
        before = len(self.groups)
        self.append({**student, **pictures, **record})
        (self.sent if len(self.groups) > before else self.there).append(folder)

    def append(self, group: Mapping[str, Path | bytes]) -> None:
        """Plan to send what of a group is not there yet, nor planned with another one."""
        files = self.stage.snapshot.files if self.stage else {}
        rest = {
            path: content
            for path, content in group.items()
            if path not in self.planned and not (path in files and files[path].holds(content))
        }
        self.planned.update(rest)
        if rest:
            self.groups.append(rest)

    def _is_there(self, path: str) -> bool:
        return self.stage is not None and path in self.stage.snapshot.files

    def _same_weights(self, run: Outgoing, path: str) -> bool:
        """Whether a student here and there, if it is in both, has the same weights; headers may differ."""
        here = self.store.student_folder(run.record.student) / STUDENT
        if self.stage is None or not self._is_there(path) or not here.is_file():
            return True
        if self.stage.snapshot.files[path].holds(here):
            return True
        self.stage.fetch([path], self.progress)
        found = [load_tensors(file, "see 'tractbench store check'")[0] for file in (here, self.stage.folder / path)]
        return tensors_digest(found[0]) == tensors_digest(found[1])


def plan_store(hub: Hub, name: str, store: Store, *, students: bool, private: bool, progress: Progress) -> StorePlan:
    """Return what sending a store would do; nothing is sent.

    Args:
        hub: where to.
        name: OWNER/NAME of a dataset repository; one that is not there would be made.
        store: the results.
        students: whether weights are sent too.
        private: whether a repository that is made is private.
        progress: told of what is read.

    Raises:
        ConfigError: the name is none, or private is asked of a public repository.
        StoreError: there are no runs, or the store is of an older format.
        HubError: the repository holds something else, or cannot be seen.
    """
    store.require_writable()
    snapshot = hub.find(repository(name), "dataset")
    if snapshot is not None and private and not snapshot.private:
        raise ConfigError(f"{name} is there and public; --private makes new ones only: make it private on its page")
    if snapshot is not None and MARKER not in snapshot.files and set(snapshot.files) - {".gitattributes"}:
        raise HubError(f"{name} holds other files and no results store; name another repository")
    runs, left_out = outgoing_runs(store, students)
    if not runs and not left_out:
        raise StoreError(f"no results in {store.root} to send; make some with 'tractbench run'")
    if snapshot is None or MARKER not in snapshot.files:
        return _plan(_Planning(store, name, None, progress), runs, left_out, Upload(name, "dataset", snapshot, private))
    with staging(hub, snapshot) as stage:
        planning = _Planning(store, name, stage, progress)
        return _plan(planning, runs, left_out, Upload(name, "dataset", snapshot, private))


def _plan(planning: _Planning, runs: list[Outgoing], left_out: list[str], upload: Upload) -> StorePlan:
    """Plan what goes beside what is there: the store's marker first, so that it is a store at every commit."""
    files = planning.stage.snapshot.files if planning.stage else {}
    by_path = {run.path: run for run in runs}
    there = [path for path in files if INCOMING.fullmatch(path) and path.endswith(f"/{RECORD}")]
    same = {path for path in there if path in by_path and files[path].holds(by_path[path].content)}
    differ = [path for path in there if path not in same]
    theirs = planning.stage.read(differ, planning.progress) if planning.stage else {}
    if runs:
        planning.append({path: content for path, content in outgoing_rest(planning.store).items() if path not in files})
    for path, run in by_path.items():
        planning.add(run, run.record if path in same else theirs.get(path))
    replaced = {path for path, run in by_path.items() if compare(theirs.get(path), run.record) != "skip"}
    records = [record for path, record in theirs.items() if path not in replaced]
    records += [run.record for path, run in by_path.items() if path not in theirs or path in replaced]
    before = _card(planning.stage) if planning.stage else None
    card = store_card(upload.name, sorted(records, key=lambda one: one.folder), before)
    if card is not None and runs:
        planning.append({CARD: card.encode()})
    return StorePlan(
        replace(upload, groups=tuple(planning.groups)),
        tuple(planning.sent), tuple(planning.there), tuple(left_out), tuple(planning.refused),
        own_card=card is None,
    )  # fmt: skip


def _card(stage: Staging) -> str | None:
    if CARD not in stage.snapshot.files:
        return None
    stage.fetch([CARD], Progress())
    return (stage.folder / CARD).read_bytes().decode(errors="replace")
