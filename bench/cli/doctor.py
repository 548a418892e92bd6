"""``tractbench doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tractbench.cli.options import Json, Runs, with_any_plugins
from tractbench.cli.output import to_json


@with_any_plugins
def doctor(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Say what this machine has: versions, devices, caches, data, teachers, tools."""
    from tractbench.cli.findings import examine

    findings = examine(runs)
    if as_json:
        print(to_json([asdict(finding) for finding in findings]))
        return
    for finding in findings:
        print(f"{'ok     ' if finding.good else 'missing'} {finding.name}: {finding.detail}")
