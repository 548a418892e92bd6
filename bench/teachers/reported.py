"""What somebody reports of a teacher: a figure, and how its images were sampled and scored."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Setting = bool | int | float | str


class Reported(BaseModel):
    """A score of a teacher that its card names, as far as its source says how it was made.

    Attributes:
        value: the score, lower is better.
        error: one standard deviation, as printed behind ±; None where none is printed.
        metric: its name.
        aggregation: which number over sets of samples it is.
        runs: of a minimum, over how many sets.
        samples: images in a set.
        protocol: how they were scored, None where that is not known.
        dataset: data set whose images it was scored against, with its variant; None for the card's own.
        sampler: the sampler, in words.
        nfe: network evaluations of an image.
        settings: what ``tractbench run --method ddim`` needs beside ``nfe`` to sample so.
        cannot: why it cannot be sampled so here.
        source: where it stands; of one that was measured with tractbench, the command and the machine.
        note: what else one should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float = Field(gt=0)
    error: float | None = Field(None, ge=0)
    metric: str = "fid"
    aggregation: Literal["mean", "minimum", "unknown"] = "unknown"
    runs: int | None = Field(None, ge=2)
    samples: int = Field(50_000, ge=2)
    protocol: str | None = None
    dataset: str | None = None
    sampler: str
    nfe: int = Field(ge=1)
    settings: dict[str, Setting] = {}
    cannot: str = ""
    source: str
    note: str = ""

    @model_validator(mode="after")
    def _of_a_minimum(self) -> Reported:
        if self.runs is not None and self.aggregation != "minimum":
            raise ValueError("runs belongs to aggregation 'minimum', and to no other")
        return self
