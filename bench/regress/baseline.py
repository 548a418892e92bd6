"""Figures that were kept of tiny runs, as a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tractbench.errors import ConfigError
from tractbench.io.files import write_atomic
from tractbench.regress.machine import Machine

FORMAT: Final = 1

SHIPPED = Path(__file__).with_name("baseline.json")
"""That of the built-in methods."""


class Kept(BaseModel):
    """A frozen value of the file: no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Quantity(Kept):
    """A figure of a run.

    Attributes:
        value: what it was.
        tolerance: how far from that it may be on another kind of machine.
    """

    value: float
    tolerance: float = Field(gt=0)


class CellBaseline(Kept):
    """A tiny run.

    Attributes:
        settings: as the command line's flags and ``--set`` have them; a cell that is written by hand has only these,
            until the next update.
        threads: that it was computed on.
        weights: sha256 of the student's weights; None where nothing is trained.
        quantities: figures by name.
    """

    settings: dict[str, object]
    threads: int = Field(default=1, ge=1)
    weights: str | None = None
    quantities: dict[str, Quantity] = {}


class Revision(Kept):
    """Why the figures were made anew.

    Attributes:
        version: counted from 1.
        reason: a sentence.
    """

    version: int = Field(ge=1)
    reason: str = Field(min_length=1)


class Baseline(Kept):
    """Figures of tiny runs, and where they hold.

    Attributes:
        format: of the file.
        revisions: why the figures were made and made anew, the newest last.
        machine: the kind of machine that made them all: there they hold to the bit.
        tolerance: what the tolerances, which hold elsewhere, are and why.
        cells: tiny runs by name.
    """

    format: Literal[1] = FORMAT
    revisions: tuple[Revision, ...] = ()
    machine: Machine | None = None
    tolerance: str = ""
    cells: dict[str, CellBaseline] = {}


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        ConfigError: it cannot be read, or says something wrong; the message names what and the remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read baseline {path}: {reason}; make it with --update") from error
    try:
        return Baseline.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}" if place else first["msg"]
        raise ConfigError(f"baseline {path}: {said}; mend it, or make it anew with --update") from error


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline.

    Raises:
        StoreError: it cannot be written.
    """
    write_atomic(path, baseline.model_dump_json(indent=2) + "\n")
