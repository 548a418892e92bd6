"""On what runs were made, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tractbench.results.record import Record


def machine(record: Record) -> str:
    """Return kind of machine, threads and versions of one run; what its record does not say is left out."""
    made = record.environment
    packages = made.get("packages")
    versions = packages if isinstance(packages, Mapping) else {}
    device, threads, code = made.get("device", "cpu"), made.get("threads"), made.get("code")
    commit = f" (commit {str(code['commit'])[:12]})" if isinstance(code, Mapping) and code.get("commit") else ""
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
    """Return what runs were made on, each kind once, in their order."""
    return "; ".join(dict.fromkeys(map(machine, records)))
