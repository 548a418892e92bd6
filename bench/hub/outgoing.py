"""What of a results store may leave its machine: records without the machine's own, pictures, plans, students."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from tractbench.io.tensors import read_header
from tractbench.results.plans import PLANS, registered_plans, registered_text
from tractbench.results.record import Record
from tractbench.results.ship import places, stripped
from tractbench.results.store import (
    FORMAT,
    GRID,
    LOSSES,
    MARKER,
    PICTURE,
    RECORD,
    STUDENT,
    TEACHER_GRID,
    Store,
    record_text,
    student_file,
)

PICTURES = (PICTURE, GRID, TEACHER_GRID)

INCOMING = re.compile(
    rf"cells/[a-z0-9][a-z0-9._-]*-[0-9a-f]{{16}}/(?:{'|'.join(map(re.escape, (RECORD, *PICTURES, STUDENT, LOSSES)))})"
    rf"|students/[0-9a-f]{{64}}/(?:{re.escape(STUDENT)}|{re.escape(LOSSES)})"
    rf"|{PLANS}/[0-9a-f]{{64}}\.json|{re.escape(MARKER)}"
)
"""Paths of a repository that are a store's: nothing else is sent, and nothing else is taken."""

SECRET = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"
    r"|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|xox[abprs]-[\w-]{10,})"
)
"""Access tokens of services, as they say what they are."""


@dataclass(frozen=True)
class Outgoing:
    """A run as it is sent.

    Attributes:
        record: without what is the machine's own.
        pictures: of its samples, by path in the repository.
        student: its weights and their loss curve by path in the repository; empty if they are not sent.
    """

    record: Record
    pictures: Mapping[str, Path]
    student: Mapping[str, Path]

    @property
    def path(self) -> str:
        """Where its record goes."""
        return f"{self.record.folder}/{RECORD}"

    @property
    def content(self) -> bytes:
        """Its record's file."""
        return record_text(self.record).encode()


def outgoing_runs(store: Store, students: bool) -> tuple[list[Outgoing], list[str]]:
    """Return the runs of a store as they are sent, by path, and a line for each that is left out, with the reason.

    Left out is what is damaged, and a run whose record or weights name a place of this machine or an access token.

    Args:
        store: the store.
        students: whether weights are sent too.
    """
    runs, left_out = [], []
    for record in store.records():
        sent = public(record)
        weights = student_file(store.root / record.folder, record.student, STUDENT)
        weights_go = students and record.status == "done" and weights.is_file()
        texts: list[object] = [sent.model_dump(mode="json")]
        if weights_go:
            texts.append(read_header(weights))
        if private := sorted({word for text in texts for word in private_words(text)}):
            left_out.append(f"{store.root / record.folder}: it names {', '.join(private)}")
            continue
        files = {f"{sent.folder}/{name}": store.root / record.folder / name for name in PICTURES}
        beside = (weights, weights.with_name(LOSSES)) if weights_go else ()
        own = weights.parent == store.root / record.folder
        folder = sent.folder if own else f"students/{record.student}"
        runs.append(
            Outgoing(
                sent,
                {path: file for path, file in files.items() if file.is_file()},
                {f"{folder}/{file.name}": file for file in beside if file.is_file()},
            )
        )
    left_out += store.damaged
    return sorted(runs, key=lambda run: run.path), left_out


def outgoing_rest(store: Store) -> dict[str, bytes]:
    """Return what a store holds besides runs, by path: what says that it is one, and registered plans."""
    plans, _ = registered_plans(store.root)
    files = {f"{PLANS}/{plan.sha256}.json": registered_text(plan).encode() for plan in plans}
    return {MARKER: (json.dumps({"format": FORMAT}) + "\n").encode()} | files


def public(record: Record) -> Record:
    """Return a record as it is sent: without paths of the machine, also in the reason why a run failed."""
    sent = stripped(record)
    if sent.reason is None:
        return sent
    reason = sent.reason
    for place in sorted(set(places(reason)), key=len, reverse=True):
        reason = reason.replace(place, f".../{PurePath(place.replace(chr(92), '/')).name}")
    return sent.model_copy(update={"reason": reason})


def private_words(value: object) -> Iterator[str]:
    """Yield absolute paths in the texts of a JSON value, and the beginning of each access token."""
    yield from places(value)
    for found in SECRET.finditer(json.dumps(value)):
        yield f"an access token ({found[0][:6]}...)"
