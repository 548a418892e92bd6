"""The paper's tables as data: rows, cells, ablation axes and claims, read from TOML and validated."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError, model_validator

from tractbench.config.fields import RunConfig
from tractbench.config.numbers import Integers
from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError, TractbenchError, nearest_name
from tractbench.evaluation.protocols import load_protocol

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
CellRef = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*/[1-9][0-9]*$")]
Scalar = str | bool | int | float
Setting = Scalar | list[Scalar]
Number = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


CellRefs = Annotated[tuple[CellRef, ...], BeforeValidator(_listed)]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Published(_Data):
    """A published figure.

    Attributes:
        value: the figure.
        error: one standard deviation, as printed behind ±; None where none is printed.
        aggregation: which number over sampling seeds it is, as far as its source says.
        source: a key of the table's sources.
        budget: whether it was made at the cell's budget.
        note: what its sources say otherwise.
    """

    value: Positive
    error: Positive | None = None
    aggregation: Literal["mean", "minimum", "unknown"] = "unknown"
    source: str
    budget: Literal["same", "other", "unknown"] = "same"
    note: str = ""


class CellData(_Data):
    """A row's entry at one NFE: its published figure, and a margin and settings of its own where it needs them."""

    nfe: Annotated[int, Strict(), Field(ge=1)]
    published: Published | None = None
    settings: dict[str, Setting] = {}
    margin: Positive | None = None
    margin_reason: str = ""


class Row(_Data):
    """A row of a table: run settings and the entries made with them.

    Attributes:
        parameters: published number of the network's parameters, in millions.
        ablation: it stands with its ablations only, not in the table itself.
    """

    id: Id
    label: str
    settings: dict[str, Setting]
    parameters: Positive | None = None
    note: str = ""
    ablation: bool = False
    cells: tuple[CellData, ...] = Field(alias="cell", min_length=1)


class Point(_Data):
    """A point of an ablation: its place on the axis, its cell (``row/nfe``) and, where there are several, its line."""

    x: Number | str
    cell: CellRef
    line: str = ""


class Axis(_Data):
    """An ablation: cells that differ in one setting ``x``, in its order, and between lines in another."""

    id: Id
    title: str
    x: str
    points: tuple[Point, ...] = Field(min_length=2)
    note: str = ""

    @property
    def lines(self) -> dict[str, list[Point]]:
        """Points by the line they lie on, in order."""
        return {name: [p for p in self.points if p.line == name] for name in dict.fromkeys(p.line for p in self.points)}


class Claim(_Data):
    """A claim and how runs test it, always between cells of its own table (``row/nfe``).

    Attributes:
        test: ``lower``: every cell of ``left`` scores lower than its partner in ``right``; ``lowest``: ``left`` scores
            lower than every other point of the axis; ``interior``: a point inside the axis (``left``, or any) scores
            lower than both of its ends; ``ordered``: scores fall along the axis; ``equal``: the logarithm of the ratio
            of ``left`` to ``right`` lies within +- ``margin``.
        margin: of ``equal`` only.
    """

    id: Id
    text: str
    test: Literal["lower", "lowest", "interior", "ordered", "equal"]
    left: CellRefs = ()
    right: CellRefs = ()
    axis: str | None = None
    margin: Positive | None = None
    margin_reason: str = ""
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _complete(self) -> Claim:
        pairs = self.test in ("lower", "equal")
        if pairs and (not self.left or len(self.left) != len(self.right) or self.axis):
            raise ValueError(f"test '{self.test}' needs as many cells in left as in right, and no axis")
        if not pairs and (not self.axis or self.right):
            raise ValueError(f"test '{self.test}' needs an axis and no right")
        counts = {"lowest": (1,), "interior": (0, 1), "ordered": (0,), "equal": (1,)}
        if self.test in counts and len(self.left) not in counts[self.test]:
            raise ValueError(f"test '{self.test}' takes {' or '.join(map(str, counts[self.test]))} cells in left")
        if (self.test == "equal") != (self.margin is not None):
            raise ValueError("a margin belongs to test 'equal', and to no other")
        if self.margin is not None and not self.margin_reason:
            raise ValueError("a margin needs a margin_reason")
        return self


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        table: the table's name.
        ref: ``row/nfe``, as axes and claims name it.
        row: its row.
        nfe: network evaluations of an image.
        metric: the score it quotes.
        settings: run settings that :func:`tractbench.config.resolve` takes; the training seed is left to the caller.
        config: the same with all defaults, training seed 0.
        published: the published figure, if there is one.
        error: one standard deviation of the published figure: as printed, else the table's ``unstated_error``; 0
            without a figure.
        margin: how far from the published figure a score may be that reproduces it.
    """

    table: str
    ref: str
    row: Row
    nfe: int
    metric: str
    settings: Mapping[str, object]
    config: RunConfig
    published: Published | None
    error: float
    margin: float | None

    @property
    def id(self) -> str:
        """``table/row/nfe``."""
        return f"{self.table}/{self.ref}"

    @property
    def tier(self) -> str:
        """The evidence tier that its runs have."""
        return self.config.tier

    @property
    def protocol(self) -> str:
        """The evaluation protocol that its runs have."""
        return self.config.protocol


Comparison = tuple[Cell, Cell]
"""A claim's smallest part: the first cell scores lower than the second, or for ``equal`` about the same."""


class Table(_Data):
    """One file: cells of one data set, tier, protocol and metric, with their ablations and claims.

    Attributes:
        name: the file's name without ``.toml``.
        metric: the score that its figures are.
        training_seeds: of each cell.
        margin: how far from a published figure a score may be that reproduces it, with its reason.
        unstated_error: one standard deviation of figures printed without one, with its reason.
        settings: run settings of every cell.
        sources: what the keys of ``source`` stand for.
    """

    name: str
    title: str
    dataset: str
    tier: str
    protocol: str
    metric: str
    training_seeds: Integers = Field(min_length=1)
    margin: Positive | None = None
    margin_reason: str = ""
    unstated_error: Positive | None = None
    unstated_error_reason: str = ""
    settings: dict[str, Setting] = {}
    sources: dict[str, str] = {}
    rows: tuple[Row, ...] = Field(alias="row", min_length=1)
    axes: tuple[Axis, ...] = Field((), alias="axis")
    claims: tuple[Claim, ...] = Field((), alias="claim")

    @cached_property
    def cells(self) -> Mapping[str, Cell]:
        """Every cell by its ``row/nfe``, in the order of the file."""
        head = {**self.settings, "dataset": self.dataset, "tier": self.tier, "protocol": self.protocol}
        cells: dict[str, Cell] = {}
        for row in self.rows:
            for data in row.cells:
                published = data.published
                error = (published.error or self.unstated_error) if published else None
                ref = f"{row.id}/{data.nfe}"
                settings = {**head, **row.settings, **data.settings, "nfe": data.nfe}
                cells[ref] = Cell(
                    table=self.name,
                    ref=ref,
                    row=row,
                    nfe=data.nfe,
                    metric=self.metric,
                    settings=settings,
                    config=_config(ref, settings),
                    published=published,
                    error=error or 0.0,
                    margin=data.margin or self.margin,
                )
        return cells

    def alternatives(self, claim: Claim) -> tuple[tuple[Comparison, ...], ...]:
        """Return what a claim compares: it says that all the comparisons of at least one alternative hold."""
        cells = self.cells
        if claim.test in ("lower", "equal"):
            return (tuple((cells[a], cells[b]) for a, b in zip(claim.left, claim.right, strict=True)),)
        points = [cells[point.cell] for axis in self.axes if axis.id == claim.axis for point in axis.points]
        if claim.test == "ordered":
            return (tuple((after, before) for before, after in pairwise(points)),)
        chosen = [cells[ref] for ref in claim.left]
        if claim.test == "lowest":
            return (tuple((chosen[0], other) for other in points if other is not chosen[0]),)
        ends = (points[0], points[-1])
        return tuple(tuple((inner, end) for end in ends) for inner in chosen or points[1:-1])

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        ids = [row.id for row in self.rows] + [claim.id for claim in self.claims]
        _unique("row and claim", ids)
        _unique("label", [row.label for row in self.rows])
        _unique("training seed", list(map(str, self.training_seeds)))
        self._check_settings()
        _unique("axis", [axis.id for axis in self.axes])
        for row in self.rows:
            _unique(f"row '{row.id}': cell", [str(data.nfe) for data in row.cells])
        self._check_figures()
        self._check_references()
        return self

    def _check_settings(self) -> None:
        """Hold a table to one data set, tier and protocol, and its cells to one number of samples."""
        if min(self.training_seeds) < 0:
            raise ValueError(f"training_seeds {min(self.training_seeds)}: give none below 0")
        places = [("settings", self.settings, TABLE_WIDE)]
        for row in self.rows:
            places.append((f"row '{row.id}'", row.settings, TABLE_WIDE | SAMPLING))
            places += [(f"cell '{row.id}/{data.nfe}'", data.settings, TABLE_WIDE | SAMPLING) for data in row.cells]
        for place, settings, barred in places:
            for key in settings:
                if key in barred:
                    where = "the file's [settings]" if key in SAMPLING else "the head of the file"
                    raise ValueError(f"{place}: {key} is one for all cells; it belongs in {where}")
        for cell in self.cells.values():
            known = load_protocol(cell.protocol).metrics
            if self.metric not in known:
                near = nearest_name(self.metric, known)
                raise ValueError(f"protocol '{cell.protocol}' has no metric {self.metric!r}{near}")

    def _check_axis(self, axis: Axis) -> None:
        """Hold the places of an axis to the settings of their cells, where it names one."""
        for point in axis.points:
            config = self.cells[point.cell].config
            value = (config.model_dump() | config.options).get(axis.x)
            if axis.x == "schedule":
                value = ",".join(map(str, config.schedule))
            if isinstance(value, str):
                right = str(point.x).casefold() == value.casefold()
            else:
                right = value is None or point.x == value  # None: no setting, or one that has no value
            if not right:
                raise ValueError(f"axis '{axis.id}': x {point.x} is not the {axis.x} of '{point.cell}', {value}")

    def _check_figures(self) -> None:
        if self.tier == "paper" and not self.metric.startswith("fid"):
            raise ValueError(f"metric '{self.metric}': tier 'paper' is about FID; give fid")
        for cell in self.cells.values():
            if cell.published and cell.margin is None:
                raise ValueError(f"cell '{cell.ref}': a published figure needs a margin, its own or the table's")
            if cell.published and not cell.error:
                raise ValueError(f"cell '{cell.ref}': a figure without an error needs the table's unstated_error")
        margins = [(self.margin, self.margin_reason, "margin")]
        margins += [(data.margin, data.margin_reason, "margin") for row in self.rows for data in row.cells]
        margins += [(self.unstated_error, self.unstated_error_reason, "unstated_error")]
        for value, reason, key in margins:
            if value and not reason:
                raise ValueError(f"{key} {value}: it needs a {key}_reason")

    def _check_references(self) -> None:
        axes = {axis.id: [point.cell for point in axis.points] for axis in self.axes}
        for axis, refs in axes.items():
            _unique(f"axis '{axis}': cell", refs)
            self._check_cells(f"axis '{axis}'", refs)
        for axis_data in self.axes:
            self._check_axis(axis_data)
        placed = {ref for refs in axes.values() for ref in refs}
        for cell in self.cells.values():
            if cell.row.ablation and cell.ref not in placed:
                raise ValueError(f"row '{cell.row.id}': an ablation's cell '{cell.ref}' has to stand on an axis")
            if cell.published:
                self._check_source(f"cell '{cell.ref}'", cell.published.source)
        for claim in self.claims:
            place = f"claim '{claim.id}'"
            self._check_source(place, claim.source)
            self._check_cells(place, claim.left + claim.right)
            for left, right in zip(claim.left, claim.right, strict=False):
                if left == right:
                    raise ValueError(f"{place}: it compares '{left}' with itself")
            if claim.axis is None:
                continue
            if claim.axis not in axes:
                raise ValueError(f"{place}: unknown axis {claim.axis!r}{nearest_name(claim.axis, axes)}")
            if any(axis.id == claim.axis and len(axis.lines) > 1 for axis in self.axes):
                raise ValueError(f"{place}: axis '{claim.axis}' has several lines; a claim needs an axis of one")
            points = axes[claim.axis]
            if not set(claim.left) <= set(points[1:-1] if claim.test == "interior" else points):
                raise ValueError(f"{place}: left {claim.left[0]!r} is no {claim.test} point of axis '{claim.axis}'")
            if claim.test == "interior" and len(points) < 3:
                raise ValueError(f"{place}: axis '{claim.axis}' has no interior point; give it three points or more")

    def _check_cells(self, place: str, refs: list[str] | tuple[str, ...]) -> None:
        for ref in refs:
            if ref not in self.cells:
                raise ValueError(f"{place}: unknown cell {ref!r}{nearest_name(ref, self.cells)}")

    def _check_source(self, place: str, source: str) -> None:
        if source not in self.sources:
            raise ValueError(f"{place}: unknown source {source!r}{nearest_name(source, self.sources)}")


TABLE_WIDE = frozenset({"dataset", "tier", "protocol", "nfe", "seed"})
"""Settings that have a key of their own in a table's head or a cell, so that no verdict mixes them."""

SAMPLING = frozenset({"samples", "sampling_seeds"})
"""Settings that all cells of a table share: scores are compared at equal numbers of samples."""


def _config(ref: str, settings: Mapping[str, object]) -> RunConfig:
    try:
        return resolve(settings)[0]
    except TractbenchError as error:
        raise ValueError(f"cell '{ref}': {error}") from error


def _unique(kind: str, ids: list[str]) -> None:
    for one in ids:
        if ids.count(one) > 1:
            raise ValueError(f"{kind} '{one}' is there twice; rename one")


def shipped_tables() -> Path:
    """Return the folder of the tables that come with the package."""
    import tractbench.tables

    return Path(tractbench.tables.__path__[0])


def load_tables(folder: Path | None = None) -> dict[str, Table]:
    """Read every ``*.toml`` file of a folder.

    Args:
        folder: the user's own tables; None means those of the package.

    Returns:
        The tables by name, in the order of their names.

    Raises:
        ConfigError: there is none, or one is damaged; the message names the file and the key.
    """
    folder = folder or shipped_tables()
    tables = {path.stem: _read(path) for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}
    if not tables:
        raise ConfigError(f"no tables in {folder}; name a folder with *.toml files, or leave --tables out")
    return tables


def _read(path: Path) -> Table:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read table {path}: {error.strerror}; mend its permissions or remove it") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"table {path} is not TOML: {error}; mend it") from error
    try:
        return Table.model_validate({**data, "name": path.stem})
    except TractbenchError as error:
        raise ConfigError(f"table {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        value = f" {first['input']!r}" if isinstance(first["input"], Scalar) else ""
        place = f"{key}{value}: " if key else ""
        raise ConfigError(f"table {path}: {place}{message[0].lower()}{message[1:]}; mend it") from error


def find_table(tables: Mapping[str, Table], name: str) -> Table:
    """Return a table by its name; a ConfigError names the nearest one."""
    if name not in tables:
        raise ConfigError(f"unknown table {name!r}{nearest_name(name, tables)}")
    return tables[name]
