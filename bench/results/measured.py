"""Measured results that come with the package: records of the suite's own runs, without students and pictures."""

from __future__ import annotations

from pathlib import Path

import tractbench.tables
from tractbench.errors import DamagedFileError, TractbenchError
from tractbench.results.index import without_collection
from tractbench.results.migrate import parse_record
from tractbench.results.record import Record, counting

MEASURED = Path(tractbench.tables.__path__[0]) / "measured"
"""Folder of the files that ship."""


def shipped_records(folder: Path | None = None) -> list[Record]:
    """Return the records that come with the package, oldest first, one for each identity; there may be none.

    Args:
        folder: another folder of such files, ``*.jsonl`` with a sealed record a line.

    Raises:
        DamagedFileError: a line is no record, or not as it was written.
        NewerRecordError: a newer tractbench has written it.
    """
    records: list[Record] = []
    with without_collection():
        for path in sorted((folder or MEASURED).glob("*.jsonl")):
            try:
                records += records_of(path)
            except TractbenchError as error:
                raise type(error)(f"{error}; {REMEDY}") from error
    return counting(sorted(records, key=lambda record: (record.created, record.identity)))


def records_of(path: Path) -> list[Record]:
    """Return the records of one such file.

    Raises:
        DamagedFileError: it cannot be read, or a line is no record or not as it was written.
        NewerRecordError: a newer tractbench has written it.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({error.strerror})") from error
    return [parse_record(line, f"{path}:{at}") for at, line in enumerate(lines, 1) if line.strip()]


REMEDY = "install tractbench again, or leave shipped results out with --no-measured"
