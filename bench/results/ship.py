"""Making the files of measured results that ship: records of stores in one order, without one machine's own."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from tractbench.config.identity import SCORING_VERSION, TRAINING_VERSION
from tractbench.errors import ConfigError
from tractbench.io.canonical import canonical
from tractbench.io.files import write_atomic
from tractbench.io.seals import sealed
from tractbench.results.record import Record
from tractbench.results.store import CELLS, Store, cell_name

KEPT = (
    "python", "packages", "platform", "processor", "threads", "device", "gpu", "numerics", "code", "processes",
    "micro_batch", "compiled",
)  # fmt: skip
"""Fields of an environment that say what kind of machine and which versions made a result."""

OWN_FLAGS = ("--runs", "--config", "--plugin", "--device", "--track")
"""Flags of a recorded command that say where it was typed, not what it made."""


@dataclass(frozen=True)
class Shipment:
    """Records that can ship, in the order of their file, and a line for each run that cannot, with the reason."""

    records: tuple[Record, ...]
    refused: tuple[str, ...]


def gather_shipment(stores: Sequence[Store], held: Sequence[Record] = ()) -> Shipment:
    """Return the records of stores as they ship; a run that several stores have with the same scores counts once.

    ``held`` are records that a file holds already, and keeps.

    Refused is what is no complete result of the current code: a run that failed or was interrupted or never ended, a
    damaged record, one of other versions of training or scoring, one that deviates from its protocol, scores that are
    not finite, one run with two scores, and one that names a place of a machine.
    """
    found = {record.identity: record for record in held}
    refused = [f"{record.folder}: {reason}" for record in held if (reason := _objection(record))]
    for store in stores:
        records = store.records()
        refused += store.damaged
        ended = {record.folder for record in records}
        if not store.damaged:
            refused += [f"{store.root / one}: it never ended" for one in store.cell_folders() if one not in ended]
        for record in records:
            where = store.root / record.folder
            if reason := _objection(record):
                refused.append(f"{where}: {reason}")
                continue
            shipped = stripped(record)
            if named := sorted(set(places(shipped.model_dump(mode="json")))):
                refused.append(f"{where}: its record names {', '.join(named)} of the machine that made it")
                continue
            before = found.setdefault(record.identity, shipped)
            if before.metrics != shipped.metrics:
                refused.append(f"{where}: the same run is there with other scores, in another folder or in the file")
    return Shipment(tuple(sorted(found.values(), key=_order)), tuple(refused))


def write_shipment(shipment: Shipment, path: Path) -> None:
    """Write records as a file that ships, one sealed record a line.

    Raises:
        ConfigError: the file's name does not end in ``.jsonl``, or there are no records.
        StoreError: it cannot be written.
    """
    if path.suffix != ".jsonl":
        raise ConfigError(f"{path}: measured results are read from *.jsonl; name such a file with --into")
    if not shipment.records:
        raise ConfigError("there are no runs to ship; make them with 'tractbench suite'")
    write_atomic(path, "".join(map(_line, shipment.records)))


def _line(record: Record) -> str:
    return json.dumps(sealed(json.loads(record.model_dump_json())), separators=(",", ":")) + "\n"


def stripped(record: Record) -> Record:
    """Return a record without what is one machine's own: paths, its kernel, flags that say where a command was typed.

    What kind of machine it was stays: processor, threads, GPU, versions, numeric settings and the state of the code.
    """
    training = record.training.model_copy(update={"environment": _kind(record.training.environment)})
    changes = {
        "environment": _kind(record.environment),
        "training": training,
        "command": _command(record.command),
        "folder": f"{CELLS}/{cell_name(record.config)}-{record.identity[:16]}",
    }
    return record.model_copy(update=changes)


def _kind(environment: dict[str, object]) -> dict[str, object]:
    """Return what of an environment says the machine's kind and the versions."""
    kept = {name: environment[name] for name in KEPT if name in environment}
    if "platform" in kept:
        kept["platform"] = _system(str(kept["platform"]))
    return kept


def _system(platform: str) -> str:
    """Return system, architecture and C library of ``platform.platform()``, without the kernel's own name."""
    match = re.search(r"-(x86_64|amd64|aarch64|arm64|ppc64le|riscv64)\b", platform, re.IGNORECASE)
    libc = platform.partition("-with-")[2]
    return " ".join(filter(None, (platform.partition("-")[0], match and match[1], libc)))


def _command(command: str) -> str:
    words = iter(shlex.split(command))
    kept = []
    for word in words:
        if word in OWN_FLAGS:
            next(words, None)
        elif word.partition("=")[0] not in OWN_FLAGS:
            kept.append(word)
    return shlex.join(kept)


def _objection(record: Record) -> str | None:
    """Return why a run does not ship, None if it does."""
    if record.status != "done":
        return f"{record.status}: {' '.join(str(record.reason).split())}"
    if record.config.schedule and record.training_version != TRAINING_VERSION:
        return f"training version {record.training_version}, not {TRAINING_VERSION}; make it again"
    if record.scoring_version != SCORING_VERSION:
        return f"scoring version {record.scoring_version}, not {SCORING_VERSION}; make it again"
    if record.deviations:
        return f"deviates from its protocol: {'; '.join(record.deviations)}"
    if not record.metrics:
        return "it has no scores"
    for name, metric in record.metrics.items():
        if not all(map(math.isfinite, metric.per_seed)):
            return f"{name} is not finite"
        if len(metric.per_seed) != len(record.config.sampling_seeds):
            return f"{name} lacks sampling seeds"
    return None


def places(value: object) -> Iterator[str]:
    """Yield every absolute path in the texts of a JSON value."""
    if isinstance(value, str):
        for word in re.split(r"[\s,;=\"'()]+", value):
            absolute = PurePosixPath(word).is_absolute() or PureWindowsPath(word).is_absolute()
            if (absolute and len(word) > 1) or word.startswith(("~/", "file:", "\\\\")):
                yield word
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from places(name)
            yield from places(inner)
    elif isinstance(value, Iterable):
        for inner in value:
            yield from places(inner)


def _order(record: Record) -> str:
    """Return what the lines of a file are sorted by: what a run is, then its seeds, never when or where it was made."""
    config = record.config
    seeds = [f"{config.seed:09d}", canonical(list(config.sampling_seeds))]
    numbers = [f"{config.budget:020d}", f"{config.nfe:09d}"]
    rest = canonical(config.model_dump(mode="json", exclude={"seed", "sampling_seeds"}))
    return "\n".join(
        [config.dataset, config.tier, config.protocol, config.method, *numbers, rest, *seeds, record.identity]
    )
