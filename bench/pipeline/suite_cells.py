"""The runs that tables want, each once, and what a store has of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal

from tractbench.claims.rows import Cell as TableCell
from tractbench.claims.table import Table
from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError, DamagedFileError, TractbenchError, nearest_name
from tractbench.evaluation.protocols import load_protocol
from tractbench.io.canonical import canonical
from tractbench.pipeline.cell import Cell, identify
from tractbench.pipeline.needs import Need, files_needed
from tractbench.registry import load_dataset
from tractbench.results.migrate import NewerRecordError
from tractbench.results.store import Store

Found = Literal["done", "failed", "waiting"]


@dataclass(frozen=True)
class Wanted:
    """One run, and the cells of tables that it stands for.

    Attributes:
        cell: the run.
        refs: ``table/row/nfe`` of every cell that it makes, in the order of the tables.
    """

    cell: Cell
    refs: tuple[str, ...]

    @property
    def id(self) -> str:
        """The run's identity."""
        return self.cell.id

    @property
    def label(self) -> str:
        """What it is called to people: its first cell and its training seed."""
        return self.refs[0] + (f" seed {self.cell.config.seed}" if self.cell.method.trains else "")

    @cached_property
    def ends(self) -> str:
        """Key of the teacher's own samples, which are computed once for all runs that have it."""
        cell = self.cell
        precision = cell.config.precision
        parts = [cell.teacher_hash, cell.process.key, cell.full_steps, cell.method.teacher_sampler(), precision]
        return canonical(["ends", *parts])

    @cached_property
    def reference(self) -> str:
        """Key of the reference statistics, "" where they cost nothing."""
        dear = load_protocol(self.cell.config.protocol).inception
        return canonical(["reference", self.cell.reference_hash]) if dear else ""

    @property
    def student(self) -> str:
        """Key of the student, "" where nothing is trained."""
        return canonical(["student", self.cell.student]) if self.cell.method.trains else ""

    @cached_property
    def shared(self) -> frozenset[str]:
        """Keys of all that is made once and that other runs may wait for."""
        return frozenset({self.ends, self.reference, self.student} - {""})


@dataclass(frozen=True)
class Unmet:
    """A cell of a table that cannot be named here, as its data or its teacher are not on this machine.

    Attributes:
        ref: ``table/row/nfe``.
        runs: how many runs it would be.
        reason: what to do.
        needs: what is not here.
    """

    ref: str
    runs: int
    reason: str
    needs: tuple[Need, ...]


@dataclass(frozen=True)
class Choice:
    """Which runs of which tables.

    Attributes:
        tables: the tables.
        only: ``key=pattern`` of :data:`KEYS`: of one key any, of several keys all have to fit.
        seeds: training seeds; None for those that each table asks for.
        tier: instead of the tables' own; what that tier says of its own of budgets and samples then holds.
        cells: training seeds by ``table/row/nfe``, instead of ``seeds``: no other cell is made; None for all cells.
    """

    tables: tuple[Table, ...]
    only: tuple[str, ...] = ()
    seeds: tuple[int, ...] | None = None
    tier: str | None = None
    cells: Mapping[str, tuple[int, ...]] | None = None

    def training_seeds(self, table: Table, cell: TableCell | None = None) -> tuple[int, ...]:
        """Return the training seeds of a table's cells, of one of them if it is given."""
        if cell and self.cells is not None:
            return self.cells.get(cell.id, ())
        return table.training_seeds if self.seeds is None else self.seeds


def wanted_cells(choice: Choice) -> tuple[list[Wanted], list[Unmet]]:
    """Return the runs of a choice in the order of seeds, then tables; a run that several cells share is there once.

    Raises:
        ConfigError: a pattern fits nothing, or a setting is impossible.
    """
    found: dict[str, Wanted] = {}
    unmet: list[Unmet] = []
    for table, one in chosen_cells(choice):
        seeds = choice.training_seeds(table, one)
        if not seeds:
            continue
        config, method, dataset = resolve(_settings(one, choice.tier))
        seeds = seeds if method.trains else (0,)
        for seed in seeds:
            try:
                cell = identify(config.model_copy(update={"seed": seed}), method, dataset)
            except TractbenchError as error:
                lacking = tuple(need for need in files_needed(config, method, dataset) if not need.present)
                unmet.append(Unmet(one.id, len(seeds), str(error), lacking))
                break
            before = found.get(cell.id, Wanted(cell, ()))
            found[cell.id] = replace(before, refs=(*before.refs, one.id))
    return sorted(found.values(), key=lambda wanted: wanted.cell.config.seed), unmet


def chosen_cells(choice: Choice) -> list[tuple[Table, TableCell]]:
    """Return the cells of tables that a choice is about.

    Raises:
        ConfigError: a pattern has an unknown key, or nothing fits.
    """
    patterns = [_pattern(text) for text in choice.only]
    chosen = [
        (table, cell)
        for table in choice.tables
        for cell in table.cells.values()
        if all(_fits(table, cell, key, [pattern for k, pattern in patterns if k == key]) for key in dict(patterns))
    ]
    if not chosen:
        names = " and ".join(table.name for table in choice.tables)
        raise ConfigError(f"no cell of {names} fits {' '.join(choice.only)}; see 'tractbench explain {names}'")
    return chosen


def _fits(table: Table, cell: TableCell, key: str, patterns: Sequence[str]) -> bool:
    """Whether a cell has a name of this kind that fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for name in KEYS[key](table, cell) for pattern in patterns)


def _on_axes(table: Table, cell: TableCell) -> Iterable[str]:
    return (axis.id for axis in table.axes if any(point.cell == cell.ref for point in axis.points))


def _in_claims(table: Table, cell: TableCell) -> Iterable[str]:
    for claim in table.claims:
        if any(cell is one for pairs in table.alternatives(claim) for pair in pairs for one in pair):
            yield claim.id


KEYS: Mapping[str, Callable[[Table, TableCell], Iterable[str]]] = {
    "row": lambda table, cell: (cell.row.id,),
    "nfe": lambda table, cell: (str(cell.nfe),),
    "cell": lambda table, cell: (cell.ref,),
    "method": lambda table, cell: (cell.config.method,),
    "axis": _on_axes,
    "claim": _in_claims,
}
"""What ``--only`` may choose by: the row, the NFE, ``row/nfe``, the method, or an axis or a claim that has the cell."""


def _pattern(text: str) -> tuple[str, str]:
    key, equals, pattern = text.partition("=")
    if not equals or key not in KEYS:
        raise ConfigError(f"--only {text!r}: give KEY=PATTERN, such as 'row=tract-*'{nearest_name(key, KEYS)}")
    return key, pattern


def _settings(cell: TableCell, tier: str | None) -> dict[str, object]:
    """Return a cell's settings at another tier, without those that the tier sets itself."""
    if tier is None or tier == cell.tier:
        return dict(cell.settings)
    _, preset = load_dataset(cell.config.dataset).preset(tier, cell.config.process)
    return {name: value for name, value in cell.settings.items() if name not in preset} | {"tier": tier}


def look_up(store: Store, wanted: Wanted) -> tuple[Found, str]:
    """Return what a store says of a run: done, failed with its reason, or neither."""
    cell = wanted.cell
    try:
        if store.find(cell.id, cell.config):
            return "done", ""
        record = store.read(store.cell_folder(cell.config, cell.id).relative_to(store.root).as_posix())
    except (FileNotFoundError, DamagedFileError):
        return "waiting", ""
    except NewerRecordError as error:
        return "failed", str(error)
    failed = record.status == "failed" and record.identity == cell.id
    return ("failed", " ".join(str(record.reason).split())) if failed else ("waiting", "")


def missing_needs(unmet: Sequence[Unmet], wanted: Sequence[Wanted]) -> list[Need]:
    """Return what is not on this machine of all that runs need, each once."""
    needs = [need for one in unmet for need in one.needs]
    seen: set[tuple[str, ...]] = set()
    for one in wanted:
        config = one.cell.config
        key = (config.dataset, config.teacher, config.protocol, config.method, canonical(config.options))
        if key not in seen:
            seen.add(key)
            needs += [need for need in files_needed(config, one.cell.method, one.cell.dataset) if not need.present]
    return list({need.name: need for need in needs}.values())
