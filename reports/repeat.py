"""The command that repeats a run."""

from __future__ import annotations

import json
import shlex

from tractbench.claims.rows import Cell
from tractbench.config.numbers import parse_integers
from tractbench.config.resolve import resolve

FLAGS = ("method", "dataset", "tier", "nfe", "schedule", "budget", "seed", "sampling_seeds", "samples", "mu_s", "mu_i",
         "batch", "lr", "process", "teacher")  # fmt: skip
"""Settings that ``tractbench run`` has an option for; all others go by ``--set``."""


def repeat_command(cell: Cell, seed: int | None) -> str:
    """Return the command that makes a cell's run with a training seed, None for a method that trains nothing."""
    settings = {**cell.settings, "seed": seed}
    usual = resolve({name: value for name, value in settings.items() if name != "protocol"})[0].protocol
    if cell.protocol == usual:
        del settings["protocol"]
    words = ["tractbench", "run"]
    for name in FLAGS:
        value = settings.pop(name, None)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", _flag(value)]
    for name, value in settings.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _flag(value: object) -> str:
    numbers = parse_integers(value) if isinstance(value, list) else value
    return ",".join(map(str, numbers)) if isinstance(numbers, list | tuple) else str(numbers)
