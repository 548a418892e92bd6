"""The command that makes a run, written from its configuration and not from what somebody typed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from tractbench.config.fields import RunConfig
from tractbench.config.flags import FLAGS
from tractbench.config.numbers import format_budget
from tractbench.config.resolve import resolve
from tractbench.errors import TractbenchError
from tractbench.plugins import used_files


def given_settings(config: RunConfig) -> dict[str, object]:
    """Return the fewest settings, with method, data set, tier and NFE, that :func:`resolve` makes a run from."""
    given: dict[str, object] = {"method": config.method, "dataset": config.dataset, "tier": config.tier}
    given["nfe"] = config.nfe
    wanted = config.model_dump(exclude={"options"}) | config.options
    for name in ("process", *config.options, "schedule", "grid_steps"):  # what others follow from, one after the other
        if _differs(given, wanted, name):
            given[name] = wanted[name]
    usual = _resolved(given)
    given |= {name: value for name, value in wanted.items() if usual.get(name) != value}
    return given


def _resolved(given: Mapping[str, object]) -> dict[str, object]:
    config, _, _ = resolve(given)
    return config.model_dump(exclude={"options"}) | config.options


def _differs(given: Mapping[str, object], wanted: Mapping[str, object], name: str) -> bool:
    try:
        return _resolved(given)[name] != wanted[name]
    except TractbenchError:
        return bool(wanted[name])  # impossible without it, as a schedule that does not end at the usual NFE


def run_command(settings: Mapping[str, object]) -> str:
    """Return the command line of ``tractbench run`` with these settings; those that are None are left out.

    It names the plugin files that are used, which the run may rest on.
    """
    words = ["tractbench", "run"]
    rest = {name: value for name, value in settings.items() if value is not None}
    for name in FLAGS:
        if name in rest:
            words += [f"--{name.replace('_', '-')}", _flag(name, rest.pop(name))]
    for name, value in rest.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    for file in used_files():
        words += ["--plugin", str(file)]
    return shlex.join(words)


def _flag(name: str, value: object) -> str:
    if name == "budget" and isinstance(value, int):
        return format_budget(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
