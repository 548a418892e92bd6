"""A table: cells of one data set, tier, protocol and metric, their ablations and claims."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise

from pydantic import Field, model_validator

from tractbench.claims import checks
from tractbench.claims.axes import Axis
from tractbench.claims.claims import Claim, Comparison
from tractbench.claims.fields import Data, Looks, Positive, Setting
from tractbench.claims.margins import MarginData, Nearest
from tractbench.claims.rows import Cell, Row
from tractbench.config.fields import RunConfig
from tractbench.config.numbers import Integers
from tractbench.config.resolve import resolve
from tractbench.errors import TractbenchError


class Table(Data):
    """One file: cells of one data set, tier, protocol and metric, with their ablations and claims.

    Attributes:
        name: the file's name without ``.toml``.
        metric: the score that its figures are.
        training_seeds: of each cell.
        looks: numbers of training seeds at which figures and claims are decided; none for one look, at those there are.
        margin: how far from a published figure a score may be that reproduces it, where its cell does not say.
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
    looks: Looks = ()
    margin: MarginData | None = None
    unstated_error: Positive | None = None
    unstated_error_reason: str = ""
    settings: dict[str, Setting] = Field({})
    sources: dict[str, str] = Field({})
    rows: tuple[Row, ...] = Field(alias="row", min_length=1)
    axes: tuple[Axis, ...] = Field((), alias="axis")
    claims: tuple[Claim, ...] = Field((), alias="claim")

    @cached_property
    def cells(self) -> Mapping[str, Cell]:
        """Every cell that can be run by its ``row/nfe``, in the order of the file."""
        head = {**self.settings, "dataset": self.dataset, "tier": self.tier, "protocol": self.protocol}
        cells: dict[str, Cell] = {}
        for row in (one for one in self.rows if not one.cannot):
            for data in row.cells:
                published = data.published
                margin = data.margin or self.margin
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
                    margin=margin.of(published.value) if margin and published else None,
                )
        return cells

    def points(self, axis: str | None) -> tuple[str, ...]:
        """Return the cells of an axis in its order, none for None."""
        return tuple(point.cell for one in self.axes if one.id == axis for point in one.points)

    def alternatives(self, claim: Claim) -> tuple[tuple[Comparison, ...], ...]:
        """Return what a claim compares: it says that all the comparisons of at least one alternative hold."""
        cells = self.cells
        if claim.test in ("lower", "equal"):
            return (tuple((cells[a], cells[b]) for a, b in zip(claim.left, claim.right, strict=True)),)
        points = [cells[ref] for ref in self.points(claim.axis)]
        if claim.test == "ordered":
            return (tuple((after, before) for before, after in pairwise(points)),)
        chosen = [cells[ref] for ref in claim.left]
        if claim.test == "lowest":
            return (tuple((chosen[0], other) for other in points if other is not chosen[0]),)
        ends = (points[0], points[-1])
        return tuple(tuple((inner, end) for end in ends) for inner in chosen or points[1:-1])

    def nearest(self, cell: Cell) -> Nearest | None:
        """Return the published figure nearest to a cell's, of another row at the same NFE; None without one."""
        if cell.published is None:
            return None
        figure = cell.published.value
        others = [
            Nearest(row.label, data.published.value, abs(data.published.value - figure))
            for row in self.rows
            for data in row.cells
            if row is not cell.row and data.nfe == cell.nfe and data.published and not row.data
        ]
        return min(others, key=lambda other: other.gap, default=None)

    def looks_of(self, claim: Claim | None = None) -> tuple[int, ...]:
        """Return the looks of a claim, of published figures for None."""
        return (claim.looks if claim else ()) or self.looks

    def first_seeds(self, number: int) -> tuple[int, ...]:
        """Return so many training seeds in the order in which looks take them: those of the table, then the next."""
        seeds = sorted(self.training_seeds)
        return tuple([*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + number)][:number])

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        checks.check(self)
        return self


def _config(ref: str, settings: Mapping[str, object]) -> RunConfig:
    try:
        return resolve(settings)[0]
    except TractbenchError as error:
        raise ValueError(f"cell '{ref}': {error}") from error
