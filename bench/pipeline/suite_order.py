"""In which order a suite makes its runs, and which of them may start now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence, Set

from tractbench.pipeline.suite_cells import Wanted


def ordered(cells: Sequence[Wanted]) -> list[Wanted]:
    """Return runs in the order in which they are best made.

    First those that others wait for: of each teacher's own samples and of all dear reference statistics the cheapest run
    that needs them, those that most wait for before others; then the first run of every student that several sample.
    The others follow seed by seed, and within a seed in the order of the tables, so that every seed completes the tables
    before the next one starts and paired comparisons have shared seeds early.
    """
    first: dict[str, None] = {}
    waiting = Counter(key for cell in cells for key in cell.shared)
    openings = Counter(key for cell in cells for key in (cell.ends, cell.reference) if key)
    for key, _ in openings.most_common():
        first[min((cell for cell in cells if key in cell.shared), key=_work).id] = None
    opened = {cell.student for cell in cells if cell.id in first}
    for cell in cells:
        if waiting[cell.student] > 1 and cell.student not in opened:
            opened.add(cell.student)
            first[cell.id] = None
    by_id = {cell.id: cell for cell in cells}
    return [by_id[key] for key in first] + [cell for cell in cells if cell.id not in first]


def _work(wanted: Wanted) -> tuple[int, int]:
    """Return what a run's cost grows with: training images, then network evaluations of all samples."""
    config = wanted.cell.config
    return config.budget, config.nfe * config.samples * len(config.sampling_seeds)


def startable(cells: Iterable[Wanted], made: Collection[str], making: Set[str]) -> list[Wanted]:
    """Return the runs that wait for nothing that a running job is making.

    Args:
        cells: runs in their order.
        made: keys of what is there.
        making: keys of what running jobs are making, or will.
    """
    return [cell for cell in cells if not (cell.shared.difference(made) & making)]


def share(count: int, jobs: int) -> int:
    """Return how many of the runs that may start one job is given: half of its part (Polychronopoulos and Kuck 1987)."""
    return max(1, -(-count // (2 * jobs)))
