"""Tiny runs compared with a baseline."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tractbench.errors import ConfigError, RunFailedError, TractbenchError, nearest_name, one_line
from tractbench.regress.baseline import Baseline, CellBaseline
from tractbench.regress.cells import Measured, measure, threads
from tractbench.regress.machine import Machine

Holds = Literal["bits", "tolerance"]
"""What has to hold of a cell here."""


@dataclass(frozen=True)
class Comparison:
    """How a cell compares.

    Attributes:
        cell: its name.
        holds: ``bits`` on the kind of machine and the number of threads that made the baseline, else ``tolerance``.
        equal: whether it holds.
        bits: whether weights and figures are the same to the bit.
        ratio: the largest deviation in units of its tolerance; None where there is nothing to compare.
        worst: the figure that deviates most.
        said: what is wrong, "" if nothing is.
    """

    cell: str
    holds: Holds
    equal: bool
    bits: bool
    ratio: float | None
    worst: str
    said: str


def compare(name: str, kept: CellBaseline, found: Measured, holds: Holds) -> Comparison:
    """Compare what a run came to with what was kept of it."""
    if set(kept.quantities) != set(found.values):
        changed = ", ".join(sorted(set(kept.quantities) ^ set(found.values)))
        return Comparison(name, holds, False, False, None, "", f"in one of the two only: {changed}")
    ratios = {which: abs(found.values[which] - one.value) / one.tolerance for which, one in kept.quantities.items()}
    worst = max(ratios, key=lambda which: ratios[which])
    bits = found.weights == kept.weights and all(ratio == 0 for ratio in ratios.values())
    within = ratios[worst] <= 1
    said = ""
    if not within:
        said = f"{worst} is {found.values[worst]:.6g}, was {kept.quantities[worst].value:.6g}"
    elif holds == "bits" and not bits:
        part = "the weights" if found.weights != kept.weights else worst
        said = f"{part} differ by no more than rounding: the arithmetic is another, or its order"
    return Comparison(name, holds, bits if holds == "bits" else within, bits, ratios[worst], worst, said)


def compare_all(
    baseline: Baseline, names: tuple[str, ...], machine: Machine, start: Callable[[str], None] = lambda name: None
) -> Iterator[Comparison]:
    """Make tiny runs again and yield how they compare.

    Args:
        baseline: what was kept.
        names: the cells.
        machine: the kind of machine that this is.
        start: told of a cell before it is run.

    Raises:
        ConfigError: a run is impossible here, or nothing was kept of it yet.
    """
    with tempfile.TemporaryDirectory(prefix="tractbench-regress-") as folder:
        for name in names:
            start(name)
            kept = baseline.cells[name]
            if not kept.quantities:
                raise ConfigError(f"cell {name!r}: the baseline has no figures of it; make them with --update")
            holds: Holds = "tolerance"
            try:
                with _of_cell(name):
                    if baseline.machine == machine and kept.threads == threads(kept.settings):
                        holds = "bits"
                    found = measure(kept.settings, Path(folder))
            except RunFailedError as error:
                yield Comparison(name, holds, False, False, None, "", str(error))
            except TractbenchError:
                raise
            except Exception as error:  # a method may fail in any way; the other cells are compared all the same
                said = one_line(f"{type(error).__name__}: {error}")
                yield Comparison(name, holds, False, False, None, "", said)
            else:
                yield compare(name, kept, found, holds)


def chosen_cells(baseline: Baseline, methods: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a baseline's cells, of some methods or, for none, of all.

    Raises:
        ConfigError: there is no cell, or none of a method that is named.
    """
    of_method = {name: str(cell.settings.get("method")) for name, cell in baseline.cells.items()}
    for method in methods:
        if method not in of_method.values():
            near = nearest_name(method, set(of_method.values()))
            raise ConfigError(f"method {method!r}: the baseline has no cell of it{near}")
    names = tuple(name for name, method in of_method.items() if not methods or method in methods)
    if not names:
        raise ConfigError("the baseline has no cells; make some with --update")
    return names


@contextmanager
def _of_cell(name: str) -> Iterator[None]:
    """Say of what is wrong which cell it is in."""
    try:
        yield
    except TractbenchError as error:
        raise type(error)(f"cell {name!r}: {error}") from error
