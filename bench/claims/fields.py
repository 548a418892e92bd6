"""Kinds of values that a table's file holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from tractbench.config.numbers import parse_integers

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
CellRef = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*/[1-9][0-9]*$")]
Scalar = str | bool | int | float
Setting = Scalar | list[Scalar]
Number = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


FIRST_LOOK = 5
"""Training seeds of the first look where only a largest number is given: no claim is decided by fewer."""


def _doubled(value: object) -> object:
    """Return a list of looks; a single number stands for looks from five seeds on, each twice the last, up to it."""
    if not isinstance(value, int) or isinstance(value, bool):
        return parse_integers(value)
    looks, at = [value], FIRST_LOOK
    while at < value:
        looks.insert(-1, at)
        at *= 2
    return tuple(looks)


def _rising(looks: tuple[int, ...]) -> tuple[int, ...]:
    if looks and (looks[0] < 2 or list(looks) != sorted(set(looks))):
        raise ValueError("looks are rising numbers of training seeds from 2 on, such as [5, 10, 20], or the largest")
    return looks


Looks = Annotated[tuple[int, ...], BeforeValidator(_doubled), AfterValidator(_rising)]
"""Numbers of training seeds at which something is decided; none: at however many there are, as if fixed beforehand."""

CellRefs = Annotated[tuple[CellRef, ...], BeforeValidator(_listed)]


class Data(BaseModel):
    """A part of a table's file: unknown keys and numbers that are not finite are damage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
