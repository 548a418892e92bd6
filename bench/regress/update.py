"""Makes a baseline, or makes its figures anew."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tractbench.errors import ConfigError
from tractbench.regress.baseline import Baseline, CellBaseline, Quantity, Revision
from tractbench.regress.cells import ERROR, Measured, Settings, measure, threads
from tractbench.regress.machine import Machine
from tractbench.regress.rounding import random_rounding

RUNS = 4
FACTOR = 10.0
LEAST = 1e-5
LEAST_SCORE = 1e-3
TINY = 1e-9  # of a figure that is 0

TOLERANCE = (
    f"Each tolerance is {FACTOR:.0f} times the largest deviation of {RUNS} runs of the cell in which every float32 "
    "output of every module is moved at random by up to a unit in the last place of its root mean square; of a "
    f"distillation error at least {LEAST:g} of the figure, of a score {LEAST_SCORE:g}, as samples are rounded to grey "
    "levels and a pixel between two of them may fall either way. The seeds are the cell's own, so that nothing but "
    "rounding differs between machines, and the runs show how far training, sampling and scoring carry it; the factor "
    "covers that another machine rounds everywhere, in optimiser and averages too, and not at random."
)


def update(
    before: Baseline | None,
    standard: Iterable[tuple[str, Settings]],
    names: Callable[[str], bool],
    reason: str,
    machine: Machine,
    start: Callable[[str], None] = lambda name: None,
) -> Baseline:
    """Return a baseline with figures of this machine.

    Args:
        before: what there was; its cells keep their settings.
        standard: further cells, by name with their settings; what is there already stays as it is.
        names: which of all cells are made anew; the others stay, which must be of this kind of machine.
        reason: why.
        machine: the kind of machine that this is.
        start: told of a cell before it is run.

    Raises:
        ConfigError: a run is impossible here, or cells that would stay were made on another kind of machine.
        RunFailedError: a run diverged.
    """
    cells = {**dict(before.cells if before else {})}
    for name, settings in standard:
        cells.setdefault(name, CellBaseline(settings=dict(settings)))
    staying = [name for name in cells if not names(name)]
    if staying and before is not None and before.machine != machine:
        raise ConfigError(
            f"{', '.join(staying)} would stay as another kind of machine made them; update all cells together"
        )
    with tempfile.TemporaryDirectory(prefix="tractbench-regress-") as folder:
        for name in cells:
            if names(name):
                start(name)
                cells[name] = _made(cells[name].settings, Path(folder))
    revisions = before.revisions if before else ()
    version = revisions[-1].version + 1 if revisions else 1
    return Baseline(
        revisions=(*revisions, Revision(version=version, reason=reason)),
        machine=machine,
        tolerance=TOLERANCE,
        cells=dict(sorted(cells.items())),
    )


def _made(settings: dict[str, object], folder: Path) -> CellBaseline:
    found = measure(settings, folder / "plain")
    others: list[Measured] = []
    for seed in range(RUNS):
        with random_rounding(seed):
            others.append(measure(settings, folder / f"rounded-{seed}"))
    quantities = {}
    for name, value in found.values.items():
        largest = max(abs(other.values[name] - value) for other in others)
        least = LEAST if name.startswith(ERROR) else LEAST_SCORE
        tolerance = max(FACTOR * largest, least * abs(value), TINY)
        quantities[name] = Quantity(value=value, tolerance=tolerance)
    return CellBaseline(settings=settings, threads=threads(settings), weights=found.weights, quantities=quantities)
