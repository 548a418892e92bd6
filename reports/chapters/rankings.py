"""Whether feature spaces rank the rows of a table alike: a distance in one is no verdict of another."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from scipy.stats import kendalltau

from tractbench.claims.rows import Cell
from tractbench.evaluation.protocols import load_protocol
from tractbench.reports.chapters.columns import runs_column
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.evidence import Evidence
from tractbench.reports.sheet import METRIC_TITLES, Column, Entry, Sheet, slug
from tractbench.reports.verdicts.pairs import paired

Ranked = Mapping[str, Evidence]
"""Evidence by cell id whose quoted numbers are those of one feature space."""


@dataclass(frozen=True)
class Agreement:
    """How two feature spaces rank the same rows.

    Attributes:
        rows: how many rows.
        tau: Kendall's tau-b of their means; None where a space has one mean for all.
        reversed: pairs of rows, the lower one by the first space first, whose order the second space reverses, both
            beyond their 95% intervals.
        undecided: how many more pairs it reverses.
    """

    rows: int
    tau: float | None
    reversed: tuple[tuple[str, str], ...]
    undecided: int


def rankings(subject: Subject) -> list[Sheet]:
    """Return the table of pairs of feature spaces at each NFE; nothing where runs have one space, or one row."""
    lines = [line for one in (subject, subject.shipped) if one for line in _lines(one)]
    if not lines:
        return []
    columns = (
        Column("Feature spaces", False),
        Column("NFE"),
        *runs_column(subject),
        Column("Rows"),
        Column("Kendall's τ"),
        Column("Reversed, undecided"),
        Column("Reversed beyond the intervals", False, wide=True),
    )
    caption = (
        "Each pair of Fréchet distances of the same runs: Kendall's τ-b of the rows' means, 1 for the same order and "
        "-1 for the opposite one. Two rows are reversed beyond the intervals if the 95% intervals of the ratio of "
        "their distances, over shared training seeds, lie on opposite sides of 1; these intervals are not corrected "
        "for their number. Named first is the row that the first space puts lower."
    )
    return [Sheet(slug(f"{subject.table.name}-rankings"), "Rankings by feature space", caption, columns, tuple(lines))]


def _lines(one: Subject) -> list[tuple[Entry, ...]]:
    """Return an entry for each NFE and pair of spaces of the runs of one source."""
    by_nfe: dict[int, list[Cell]] = {}
    for cell in one.table.cells.values():
        if not cell.row.ablation and one.evidence[cell.id].records:
            by_nfe.setdefault(cell.nfe, []).append(cell)
    lines = []
    for nfe, cells in sorted(by_nfe.items()):
        spaces = {name: _in_space(one, cells, name) for name in _distances(one, cells)}
        for first, second in combinations(spaces, 2):
            shared = [cell for cell in cells if cell.id in spaces[first] and cell.id in spaces[second]]
            if len(shared) > 1:
                lines.append(_line(one, nfe, first, second, agreement(shared, spaces[first], spaces[second])))
    return lines


def _line(one: Subject, nfe: int, first: str, second: str, found: Agreement) -> tuple[Entry, ...]:
    spaces = " : ".join(METRIC_TITLES.get(name, name) for name in (first, second))
    labels = {cell.ref: cell.row.label for cell in one.table.cells.values()}
    pairs = "; ".join(f"{labels[low]} < {labels[high]}" for low, high in found.reversed) or "none"
    return (
        Entry(spaces, spaces),
        Entry(str(nfe), nfe),
        *([Entry(one.source, one.source)] if one.shipped or one.source == "shipped" else []),
        Entry(str(found.rows), found.rows),
        Entry("-", math.inf) if found.tau is None else Entry(f"{found.tau:.2f}", found.tau),
        Entry(str(found.undecided), found.undecided),
        Entry(pairs, len(found.reversed)),
    )


def _distances(one: Subject, cells: Sequence[Cell]) -> list[str]:
    """Return the Frechet distances to the training images that some run has, the table's own first."""
    names = {name for cell in cells for record in one.evidence[cell.id].records for name in record.metrics}
    known = [m for m in names if m == "fid" or (m.startswith("fd_") and not m.endswith(("_held_out", "_unverified")))]
    return sorted(known, key=lambda name: (name != one.table.metric, name != "fid", name))


def _in_space(one: Subject, cells: Sequence[Cell], metric: str) -> dict[str, Evidence]:
    """Return the cells' evidence with a distance in another space quoted, of those whose runs all have it."""
    found = {}
    for cell in cells:
        evidence = one.evidence[cell.id]
        scores: dict[int, dict[int, float]] = {}
        for record in reversed(evidence.records):
            if metric in record.metrics:
                pairs = zip(record.config.sampling_seeds, record.metrics[metric].per_seed, strict=True)
                seed = record.config.seed
                scores[seed] = dict(pairs) | scores.get(seed, {})
        whole = {seed: by_seed.keys() for seed, by_seed in scores.items()}
        usable = all(0 < score < math.inf for by_seed in scores.values() for score in by_seed.values())
        if usable and whole == {seed: by_seed.keys() for seed, by_seed in evidence.scores.items()}:
            quote = load_protocol(cell.protocol).quoted
            quoted = {seed: quote(list(by_seed.values())) for seed, by_seed in sorted(scores.items())}
            found[cell.id] = replace(evidence, scores=scores, quoted=quoted)
    return found


def agreement(cells: Sequence[Cell], first: Ranked, second: Ranked) -> Agreement:
    """Compare the order of cells in two feature spaces.

    Args:
        cells: two at least.
        first: their evidence in one space.
        second: in the other.
    """
    means = [[statistics.fmean(space[cell.id].quoted.values()) for cell in cells] for space in (first, second)]
    tau = float(kendalltau(*means).statistic)
    decided, undecided = [], 0
    for left, right in combinations(range(len(cells)), 2):
        signs = [math.copysign(1, m[left] - m[right]) if m[left] != m[right] else 0 for m in means]
        if signs[0] * signs[1] >= 0:
            continue
        low, high = (left, right) if signs[0] < 0 else (right, left)
        if _below(cells[low], cells[high], first) and _below(cells[high], cells[low], second):
            decided.append((cells[low].ref, cells[high].ref))
        else:
            undecided += 1
    return Agreement(len(cells), None if math.isnan(tau) else tau, tuple(decided), undecided)


def _below(low: Cell, high: Cell, space: Ranked) -> bool:
    """Whether the interval of the ratio of two cells lies below 1."""
    found = paired((low, high), space).found
    return found is not None and found.interval()[1] < 0
