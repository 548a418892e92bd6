"""Stores of the first format: a table that was only appended to, and run folders beside it that held all files."""

from __future__ import annotations

import re
from pathlib import Path

from tractbench.errors import TractbenchError
from tractbench.results.index import without_collection
from tractbench.results.migrate import BOM, parse_record
from tractbench.results.record import Record

TABLE = "records.jsonl"
FOLDER = re.compile(r".+-[0-9a-f]{8}-[0-9a-f]{8}")
"""A run's folder: what it is, and the first digits of its student's and its own identity."""


def read_table(root: Path) -> tuple[list[Record], list[str]]:
    """Return all records of a table, oldest first and migrated, and what of it is damaged and why."""
    table = root / TABLE
    records: list[Record] = []
    damaged: list[str] = []
    try:
        content = table.read_bytes()
    except FileNotFoundError:
        return records, damaged
    except OSError as error:
        return records, [f"{table} cannot be read ({error.strerror})"]
    with without_collection():
        for number, line in enumerate(content.removeprefix(BOM).split(b"\n"), 1):
            if line.strip():
                try:
                    records.append(parse_record(line, f"{table} line {number}"))
                except TractbenchError as error:
                    damaged.append(str(error))
    return records, damaged


def run_folders(root: Path) -> list[Path]:
    """Return the run folders beside a table, by name."""
    return sorted(path for path in root.iterdir() if path.is_dir() and FOLDER.fullmatch(path.name))
