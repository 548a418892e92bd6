"""Kinds of values that a table's file holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
CellRef = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*/[1-9][0-9]*$")]
Scalar = str | bool | int | float
Setting = Scalar | list[Scalar]
Number = Annotated[float, Strict()]
Positive = Annotated[float, Strict(), Field(gt=0)]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


CellRefs = Annotated[tuple[CellRef, ...], BeforeValidator(_listed)]


class Data(BaseModel):
    """A part of a table's file: unknown keys and numbers that are not finite are damage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
