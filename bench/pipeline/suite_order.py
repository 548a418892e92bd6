"""In which order a suite makes its runs, and which of them may start now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence, Set

from tractbench.pipeline.suite_cells import Wanted


def ordered(cells: Sequence[Wanted]) -> list[Wanted]:
    """Return runs in the order in which they are best made.

    First those that others wait for: of each teacher's own samples and of all dear reference statistics the cheapest
    run that needs them, those that most wait for before others; then the first run of every student that several
    sample. The others follow seed by seed, and within a seed in the order of the tables, so that every seed completes
    the tables before the next one starts and paired comparisons have shared seeds early.
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


def deal(
    cells: Iterable[Wanted], made: Collection[str], making: Set[str], jobs: int, free: int, held: int = 0
) -> list[Wanted]:
    """Return what one job is given of the runs that wait.

    None that waits for what another job is making; of what is not made yet for all, what the first of them makes and
    nothing else, so that another job can make the rest at the same time. Of these it gets its part: every so-manyth,
    where several jobs are about to start.

    Args:
        cells: runs in their order.
        made: keys of what is there.
        making: keys of what other jobs are making, or will.
        jobs: jobs at a time.
        free: jobs that can be given something now, this one included.
        held: runs that other jobs have been given and not left; a part is one of these and what waits together.
    """
    ready = [cell for cell in cells if not (cell.shared.difference(made) & making)]
    if not ready:
        return []
    opened = {ready[0].ends, ready[0].reference}.union(made)
    fitting = [cell for cell in ready if cell.ends in opened and (not cell.reference or cell.reference in opened)]
    return fitting[::free][: -(-(len(ready) + held) // jobs)]
