"""The runs that stand behind a cell of a table, and those that do not, with the reason."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache

from pydantic import ValidationError

from tractbench.claims.rows import Cell
from tractbench.claims.table import Table
from tractbench.config.fields import RunConfig
from tractbench.config.identity import SCORING_VERSION, TRAINING_VERSION, comparison_form
from tractbench.config.numbers import format_budget
from tractbench.errors import TractbenchError
from tractbench.evaluation.protocols import load_protocol
from tractbench.io.canonical import canonical
from tractbench.registry import load_method
from tractbench.results.record import Record, RecordedConfig
from tractbench.results.statistics import Spread, spread, variance


@dataclass(frozen=True)
class Evidence:
    """What the store holds for a cell.

    Attributes:
        scores: the cell's metric by training seed, then sampling seed.
        quoted: for each training seed, the number that the protocol quotes of its sampling seeds.
        records: the runs that count.
        left_out: runs that the cell asks for and that do not count, and why.
        remarks: what is unusual about those that count.
        budgets: budgets of runs that differ from the cell in nothing else, and that no cell asks for.
        failed: training seeds of which there are only failed runs.
    """

    scores: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    quoted: Mapping[int, float] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    left_out: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    budgets: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()

    @property
    def spread(self) -> Spread | None:
        """Mean and both spreads of the scores, None without any."""
        return spread(self.scores) if self.scores else None

    @property
    def mean(self) -> float | None:
        """Mean over training seeds of what the protocol quotes, None without any."""
        return statistics.fmean(self.quoted.values()) if self.quoted else None

    @property
    def training_std(self) -> float | None:
        """Standard deviation over training seeds of what the protocol quotes, None for fewer than two."""
        return math.sqrt(variance(self.quoted.values())) if len(self.quoted) > 1 else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of the runs."""
        return self.left_out + self.remarks

    @property
    def missing(self) -> str:
        """Why there are no scores."""
        if self.failed:
            return f"failed ({len(self.failed)} seed{'s' * (len(self.failed) > 1)})"
        if not self.budgets:
            return "not run"
        return f"run only with a budget of {' and '.join(map(format_budget, self.budgets))}"

    @property
    def touched(self) -> bool:
        """Whether there are runs, or reasons why those that there are do not count."""
        return bool(self.quoted or self.left_out or self.budgets or self.failed)

    @property
    def trained(self) -> bool:
        """Whether its runs have training seeds: a teacher that is only sampled has the one score."""
        return not self.records or bool(self.records[0].config.schedule)

    def comparable(self, other: Evidence) -> bool:
        """Whether both were scored against the same data and reference, and what has one name is one thing.

        That holds for teachers and for methods, whose source counts if it comes from outside this distribution.
        """
        if not self.records or not other.records:
            return True
        mine, theirs = self.records[0], other.records[0]
        keys = ["data", "reference", "data_source"]
        keys += ["teacher"] if mine.config.teacher == theirs.config.teacher else []
        keys += ["method_source"] if mine.config.method == theirs.config.method else []
        return all(mine.hashes.get(key) == theirs.hashes.get(key) for key in keys)


def gather(records: Sequence[Record], tables: Mapping[str, Table]) -> dict[str, Evidence]:
    """Return what the store holds for every cell of the tables, by the cell's id.

    Runs count that are done, of the current versions, true to their protocol, and differ from the cell's
    settings in their seeds at most; where they were made with different teachers, data, references or plugin sources,
    only those made like the latest.

    Args:
        records: one for each identity, oldest first (:meth:`tractbench.results.store.Store.records`).
        tables: all tables.
    """
    alike: dict[str, list[Record]] = {}
    for record in records:
        alike.setdefault(_likeness(record.config), []).append(record)
    cells = [
        (cell, _likeness(RecordedConfig.of(cell.config))) for table in tables.values() for cell in table.cells.values()
    ]
    budgets: dict[str, set[int]] = {}
    for cell, likeness in cells:
        budgets.setdefault(likeness, set()).add(cell.config.budget)
    return {cell.id: _evidence(cell, alike.get(likeness, []), budgets[likeness]) for cell, likeness in cells}


def _evidence(cell: Cell, alike: Sequence[Record], budgets: Set[int]) -> Evidence:
    """Sort runs that differ in seeds and budget at most; ``budgets`` are those that cells ask for."""
    wanted, protocol = cell.config, load_protocol(cell.protocol)
    fixed = protocol.reported != "mean"  # a minimum or a single score is one of certain sampling seeds
    usable = [r for r in alike if not fixed or r.config.sampling_seeds == wanted.sampling_seeds]
    asked = [record for record in usable if record.config.budget == wanted.budget]
    counting = [record for record in asked if _objection(record, cell.metric) is None]
    made = _made_with(counting[-1]) if counting else ""
    scores: dict[int, dict[int, float]] = {}
    students: dict[int, str | None] = {}
    used: list[Record] = []
    for record in reversed(counting):
        if _made_with(record) != made:
            continue
        student = students.setdefault(record.config.seed, record.hashes.get("student"))
        of_seed = scores.get(record.config.seed, {})
        if record.hashes.get("student") == student and not set(record.config.sampling_seeds) <= of_seed.keys():
            pairs = zip(record.config.sampling_seeds, record.metrics[cell.metric].per_seed, strict=True)
            scores[record.config.seed] = dict(pairs) | of_seed
            used.insert(0, record)
    counted = {record.identity for record in used}
    left_out: dict[str, set[int]] = {}
    for record in asked:
        if record.identity not in counted:
            other = "made again later" if _made_with(record) == made else "other files than the latest"
            left_out.setdefault(_objection(record, cell.metric) or other, set()).add(record.config.seed)
    elsewhere = {r.config.budget for r in usable if r.status == "done" and _outdated(r) is None}
    return Evidence(
        scores=scores,
        quoted={seed: protocol.quoted(list(by_seed.values())) for seed, by_seed in sorted(scores.items())},
        records=tuple(used),
        left_out=tuple(f"training seed{_listed(seeds)}: {reason}" for reason, seeds in left_out.items()),
        remarks=_remarks(scores, wanted.sampling_seeds),
        budgets=tuple(sorted(elsewhere - budgets)),
        failed=tuple(sorted({r.config.seed for r in asked if _failed(r, cell.metric)} - scores.keys())),
    )


def _listed(seeds: Set[int]) -> str:
    return f"{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"


def _remarks(scores: Mapping[int, Mapping[int, float]], asked: Sequence[int]) -> tuple[str, ...]:
    """Say how many training seeds lack some of the sampling seeds that the table asks for."""
    fewer = sum(not set(asked) <= by_seed.keys() for by_seed in scores.values())
    text = f"{fewer} of {len(scores)} training seeds scored with fewer sampling seeds than the {len(asked)} asked for"
    return (text,) if fewer else ()


def _likeness(config: RecordedConfig) -> str:
    """Return what runs of a cell share, and those of another budget: :func:`comparison_form`.

    Runs that were also scored in more feature spaces have the same scores without these, and stand beside the others.
    A run of a method that is not here, or whose settings this release does not know, is like those of the same words.
    """
    written = config.as_written()
    return _likeness_of(
        canonical({key: value for key, value in written.items() if key not in ("seed", "sampling_seeds")})
    )


@lru_cache(maxsize=1 << 14)
def _likeness_of(written: str) -> str:
    try:
        config = RunConfig.model_validate_json(written)
        form = comparison_form(config, load_method(config.method).model_validate(config.options))
        return canonical(form | {"protocol": load_protocol(config.protocol).core.name})
    except (ValidationError, TractbenchError):
        return written


def _objection(record: Record, metric: str) -> str | None:
    """Return why a run does not count, None if it does."""
    if outdated := _outdated(record):
        return outdated
    if record.status != "done":
        return f"{record.status}: {' '.join(str(record.reason).split())}"
    if metric not in record.metrics:
        return f"has no {metric}"
    if record.deviations:
        return f"deviates from its protocol: {'; '.join(record.deviations)}"
    if not _finite(record, metric):
        return f"{metric} is not a positive number"
    return None


def _outdated(record: Record) -> str | None:
    """Return which version of the code's results made a run, None for the current one."""
    if record.config.schedule and record.training_version != TRAINING_VERSION:
        return f"training version {record.training_version}, not {TRAINING_VERSION}"
    if record.scoring_version != SCORING_VERSION:
        return f"scoring version {record.scoring_version}, not {SCORING_VERSION}"
    return None


def _failed(record: Record, metric: str) -> bool:
    """Whether a run of the current code failed or scored no positive number: evidence that cannot be averaged."""
    if _outdated(record):
        return False
    return record.status == "failed" or (metric in record.metrics and not _finite(record, metric))


def _finite(record: Record, metric: str) -> bool:
    return all(math.isfinite(score) and score > 0 for score in record.metrics[metric].per_seed)


def _made_with(record: Record) -> str:
    return canonical({key: value for key, value in record.hashes.items() if key != "student"})
