"""Which runs the next look at undecided figures and claims takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tractbench.claims.table import Table
from tractbench.reports.verdicts.verdict import Verdict


def next_look(
    tables: Mapping[str, Table], verdicts: Sequence[Verdict], chosen: Collection[str]
) -> tuple[list[Verdict], dict[str, tuple[int, ...]]]:
    """Return what is not decided yet and has looks left, and the training seeds of its cells at the next look.

    Args:
        tables: by name.
        verdicts: of them.
        chosen: ids of the cells that may be run; what needs another one is left out.

    Returns:
        The verdicts, and the seeds by the id of each cell.
    """
    undecided: list[Verdict] = []
    seeds: dict[str, tuple[int, ...]] = {}
    for verdict in verdicts:
        table, looks = tables[verdict.table], verdict.looks
        cells = _cells(table, verdict)
        if looks is None or looks.next is None or not cells <= set(chosen):
            continue
        if verdict.kind == "cell" and verdict.verdict == "budget differs" and verdict.n:
            continue  # the published figure is of another budget: no run decides it
        undecided.append(verdict)
        for cell in cells:
            seeds[cell] = max(seeds.get(cell, ()), table.first_seeds(looks.next), key=len)
    return undecided, seeds


def _cells(table: Table, verdict: Verdict) -> set[str]:
    """Return the ids of the cells that a verdict is about."""
    if verdict.kind == "cell":
        return {verdict.id}
    return {one for pair in verdict.compared for one in (pair.left, pair.right)}
