"""The runs that stand behind a cell of a table, and those that do not, with the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tractbench.config import RESULTS_VERSION, RunConfig, canonical, format_budget, resolve
from tractbench.evaluation.protocols import load_protocol
from tractbench.paper import Cell
from tractbench.results.record import Record
from tractbench.results.statistics import Spread, spread


@dataclass(frozen=True)
class Evidence:
    """What the store holds for a cell.

    Attributes:
        scores: the cell's metric by training seed, then sampling seed.
        quoted: for each training seed, the number that the protocol quotes of its sampling seeds.
        records: the runs that count.
        left_out: what was asked for by the cell's settings and does not count, and why.
        budgets: budgets of runs that differ from the cell in nothing else.
        failed: how many runs of the cell failed.
    """

    scores: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    quoted: Mapping[int, float] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    left_out: tuple[str, ...] = ()
    budgets: tuple[int, ...] = ()
    failed: int = 0

    @property
    def spread(self) -> Spread | None:
        """Mean and both spreads of the scores, None without any."""
        return spread(self.scores) if self.scores else None

    @property
    def missing(self) -> str:
        """Why there are no scores."""
        if self.failed:
            return f"failed ({self.failed} run{'s' * (self.failed > 1)})"
        if not self.budgets:
            return "not run"
        return f"run only with a budget of {' and '.join(map(format_budget, self.budgets))}"

    def comparable(self, other: Evidence) -> bool:
        """Whether both were scored against the same data and reference, and teachers of one name are one teacher."""
        if not self.records or not other.records:
            return True
        mine, theirs = self.records[0], other.records[0]
        same = [mine.hashes.get(key) == theirs.hashes.get(key) for key in ("data", "reference")]
        if mine.config.teacher == theirs.config.teacher:
            same.append(mine.hashes.get("teacher") == theirs.hashes.get("teacher"))
        return all(same)


class Archive:
    """The runs of a store, found by their settings.

    Args:
        records: one for each identity, oldest first (:meth:`tractbench.results.store.Store.latest`).
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._alike: dict[str, list[Record]] = {}
        self._known: set[tuple[str, int]] = set()
        for record in records:
            self._alike.setdefault(_likeness(record.config), []).append(record)
            self._known.add((record.config.dataset, record.config.nfe))

    def gather(self, cell: Cell) -> Evidence:
        """Return what the runs say of a cell.

        Runs count that are done, of the current results version, true to their protocol, and differ from the cell's
        resolved settings in their seeds at most; where they were made with different teachers, data, references or
        plugin sources, only those made like the latest.

        Raises:
            ConfigError: no run can have the cell's settings.
        """
        if (cell.settings["dataset"], cell.nfe) not in self._known:
            return Evidence()
        wanted = resolve(cell.settings)[0]
        protocol = load_protocol(wanted.protocol)
        asked: list[Record] = []
        budgets: set[int] = set()
        for record in self._alike.get(_likeness(wanted), ()):
            if protocol.reported != "mean" and record.config.sampling_seeds != wanted.sampling_seeds:
                continue
            if record.config.budget == wanted.budget:
                asked.append(record)
            elif record.status == "done" and record.results_version == RESULTS_VERSION:
                budgets.add(record.config.budget)
        counting = [record for record in asked if _objection(record, cell.metric) is None]
        made = _made_with(counting[-1]) if counting else ""
        used = [record for record in counting if _made_with(record) == made]
        counted = {record.identity for record in used}
        scores: dict[int, dict[int, float]] = {}
        for record in used:
            pairs = zip(record.config.sampling_seeds, record.metrics[cell.metric].per_seed, strict=True)
            scores.setdefault(record.config.seed, {}).update(pairs)
        left_out = [
            f"training seed {record.config.seed}: {_objection(record, cell.metric) or 'other files than the latest'}"
            for record in asked
            if record.identity not in counted
        ]
        return Evidence(
            scores=scores,
            quoted={seed: protocol.quoted(list(by_seed.values())) for seed, by_seed in sorted(scores.items())},
            records=tuple(used),
            left_out=tuple(dict.fromkeys(left_out)),
            budgets=tuple(sorted(budgets)),
            failed=sum(record.status == "failed" for record in asked),
        )


def _likeness(config: RunConfig) -> str:
    """Return what runs of a cell share, and those of another budget: everything but seeds, budget and chunk."""
    return canonical(config.model_dump(mode="json", exclude={"seed", "sampling_seeds", "chunk", "budget"}))


def _objection(record: Record, metric: str) -> str | None:
    """Return why a run does not count, None if it does."""
    if record.results_version != RESULTS_VERSION:
        return f"results version {record.results_version}, not {RESULTS_VERSION}"
    if record.status == "failed":
        return f"failed: {' '.join(str(record.reason).split())}"
    if metric not in record.metrics:
        return f"has no {metric}"
    if record.deviations:
        return f"deviates from its protocol: {'; '.join(record.deviations)}"
    if not all(math.isfinite(score) and score > 0 for score in record.metrics[metric].per_seed):
        return f"{metric} is not a positive number"
    return None


def _made_with(record: Record) -> str:
    return canonical({key: value for key, value in record.hashes.items() if key != "student"})
