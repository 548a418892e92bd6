"""Rows of a table and their cells: as its file has them, and as what can be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, Strict

from tractbench.claims.fields import Data, Id, Positive, Setting
from tractbench.claims.margins import MarginData
from tractbench.claims.published import Published
from tractbench.config.fields import RunConfig


class CellData(Data):
    """A row's entry at one NFE: its published figure, and a margin and settings of its own where it needs them."""

    nfe: Annotated[int, Strict(), Field(ge=1)]
    published: Published | None = None
    settings: dict[str, Setting] = Field({})
    margin: MarginData | None = None


class Row(Data):
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
        margin: how far from the published figure a score may be that reproduces it, in its units; None without either.
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
