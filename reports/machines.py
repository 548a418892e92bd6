"""On what runs were made, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tractbench.results.record import Record


def machine(record: Record) -> str:
    """Return kind of machine, threads and versions of one run; what its record does not say is left out."""
    return _words(record, _commits([record]))


def _commits(records: Iterable[Record]) -> list[str]:
    """Return the commits of the code that made runs, each once."""
    codes = (record.environment.get("code") for record in records)
    found = (code["commit"] for code in codes if isinstance(code, Mapping) and code.get("commit"))
    return list(dict.fromkeys(str(commit)[:12] for commit in found))


def _words(record: Record, commits: list[str]) -> str:
    made = record.environment
    packages = made.get("packages")
    versions = packages if isinstance(packages, Mapping) else {}
    device, threads = made.get("device", "cpu"), made.get("threads")
    commit = f" (commit{'s' * (len(commits) != 1)} {', '.join(commits)})" if commits else ""
    parts = [
        str(made.get("processor", "")),
        str(device) if device != "cpu" else "",
        f"{threads} thread{'s' * (threads != 1)}" if threads else "",
        f"tractbench {versions['tractbench']}{commit}" if versions.get("tractbench") else "",
        f"torch {versions['torch']}" if versions.get("torch") else "",
        f"training version {record.training_version}, scoring version {record.scoring_version}",
    ]
    return ", ".join(filter(None, parts))


def machines(records: Iterable[Record]) -> str:
    """Return what runs were made on, each kind once, in their order, with the commits of the code that made them."""
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(_words(record, []), []).append(record)
    return "; ".join(_words(same[0], _commits(same)) for same in kinds.values())
