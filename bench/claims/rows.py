"""Rows of a table and their cells: as its file has them, and as what can be run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, Strict, model_validator

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
        cannot: why it is not run here, instead of settings: its published figures stand in the table, without verdict.
        parameters: published number of the network's parameters, in millions.
        discriminator: whether the published method trains one, as far as is known.
        lpips: whether it trains with that perceptual distance.
        backbone: its network.
        pixels: how its images were made, where there are several ways.
        data: of a row that cannot be run, other data than the table's, such as class labels.
        ablation: it stands with its ablations only, not in the table itself.
    """

    id: Id
    label: str
    settings: dict[str, Setting] = Field({})
    cannot: str = ""
    discriminator: bool | None = None
    lpips: bool | None = None
    backbone: str = ""
    pixels: str = ""
    data: str = ""
    parameters: Positive | None = None
    note: str = ""
    ablation: bool = False
    cells: tuple[CellData, ...] = Field(alias="cell", min_length=1)

    @model_validator(mode="after")
    def _run_or_not(self) -> Row:
        if bool(self.settings) == bool(self.cannot):
            raise ValueError(f"row '{self.id}' needs settings, or a reason in cannot why it is not run")
        if self.cannot and (self.ablation or any(c.settings or c.margin or not c.published for c in self.cells)):
            raise ValueError(f"row '{self.id}' cannot be run: it has published figures only, no settings or margins")
        if self.data and not self.cannot:
            raise ValueError(f"row '{self.id}': data {self.data!r} belongs to a row that cannot be run")
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
