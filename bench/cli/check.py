"""``tractbench check``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli.options import Json, with_plugins
from tractbench.errors import ConfigError, choose
from tractbench.plugins import Kind, used_files

if TYPE_CHECKING:
    from tractbench.checks import Finding

KINDS: Mapping[str, Kind] = {
    "method": "methods",
    "dataset": "datasets",
    "extractor": "extractors",
    "network": "networks",
    "process": "processes",
    "workload": "workloads",
}


@with_plugins
def check(
    name: Annotated[str | None, typer.Argument(help="A component; or all that --plugin gives.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="method, dataset, extractor, network, process or workload, if several have it.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Hold a component to what tractbench asks of its kind: the same test that its own are held to.

    Exit status 0: every check passed or does not apply; 1: one failed; 2: there is no such component.

    Examples:
      tractbench check tract
      tractbench check my_method --plugin my_method.py --json
      tractbench check --plugin my_method.py
    """
    from tractbench.checks import check as look

    wanted = _wanted(name, KINDS[choose(kind, "kind", KINDS)] if kind is not None else None)
    findings = [finding for of_kind, one in wanted for finding in look(of_kind, one)]
    failed = sum(finding.status == "failed" for finding in findings)
    if as_json:
        print(json.dumps({"passed": not failed, "findings": [asdict(finding) for finding in findings]}))
    else:
        _show(findings)
    return 1 if failed else 0


def _wanted(name: str | None, kind: Kind | None) -> list[tuple[Kind, str]]:
    """Return kind and name of what is to be checked.

    Raises:
        ConfigError: there is nothing of that name, or nothing is named.
    """
    from tractbench.checks import check_file, kinds_of

    if name is None:
        found = [one for file in used_files() for one in check_file(file) if kind in (None, one[0])]
        if not found:
            raise ConfigError("nothing to check; give a NAME, such as tract, or --plugin FILE")
        return found
    kinds = kinds_of(name)
    if kind is not None and kind not in kinds:
        raise ConfigError(f"{name!r} is none of the {kind}; leave --kind out")
    return [(one, name) for one in kinds if kind in (None, one)]


def _show(findings: list[Finding]) -> None:
    from tractbench.cli.console import print_table

    rows = [
        [one.component, one.check, one.status, one.detail + f"; {one.remedy}" * bool(one.remedy)] for one in findings
    ]
    print_table({"component": "left", "check": "left", "": "left", "what was found": "left"}, rows)
    failed = [one for one in findings if one.status == "failed"]
    passed = sum(one.status == "passed" for one in findings)
    print(f"{passed} passed, {len(failed)} failed, {len(findings) - passed - len(failed)} do not apply")
