"""The commands that make the cells of a table."""

from __future__ import annotations

from tractbench.claims.rows import Cell
from tractbench.config.command import run_command
from tractbench.config.resolve import resolve


def repeat_command(cell: Cell, seed: int | None) -> str:
    """Return the command that makes a cell's run with a training seed, None for a method that trains nothing."""
    settings = {**cell.settings, "seed": seed}
    usual = resolve({name: value for name, value in settings.items() if name != "protocol"})[0].protocol
    return run_command(settings | {"protocol": cell.protocol if cell.protocol != usual else None})
