"""Distances that the demo shows beside images: of the user's runs and of those that ship, by method and NFE."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from tractbench.config.command import given_settings
from tractbench.config.fields import RunConfig
from tractbench.config.identity import SCORING_VERSION, TRAINING_VERSION
from tractbench.errors import TractbenchError
from tractbench.reports.chart import Chart, Mark
from tractbench.reports.frames import cell_key, settings_text
from tractbench.reports.sheet import METRIC_TITLES, with_interval, with_spread
from tractbench.results.record import Record
from tractbench.results.statistics import difference, spread

METRIC = "fd_pixel"

Whose = Literal["yours", "shipped"]

OWN_PLACE = ("method", "dataset", "nfe", "seed", "sampling_seeds")
"""Settings that are shown in a place of their own."""


@dataclass(frozen=True, order=True)
class Line:
    """What runs share that differ in NFE and seeds.

    Attributes:
        method: name of the method.
        settings: what else they set, as ``name=value``.
    """

    method: str
    settings: str

    def __str__(self) -> str:
        """Say both."""
        return f"{self.method}, {self.settings}" if self.settings else self.method


@dataclass(frozen=True)
class Figure:
    """A distance of one line at one NFE.

    Attributes:
        line: the line.
        whose: whose runs it is of.
        nfe: network evaluations that an image took.
        mean: over training seeds.
        interval: 95% interval over training seeds, None for fewer than two.
        text: both, or the spread over sampling seeds of a single one.
        seeds: over what.
        n: training seeds.
        command: what makes a run of it.
    """

    line: Line
    whose: Whose
    nfe: int
    mean: float
    interval: tuple[float, float] | None
    text: str
    seeds: str
    n: int
    command: str


def line_of(record: Record) -> Line:
    """Return the line that a run is on."""
    config = record.config.model_dump(mode="json", exclude={"seed", "sampling_seeds"})
    settings = _settings(json.dumps(config, sort_keys=True)) or settings_text(record.config)
    old = (record.training_version, record.scoring_version) != (TRAINING_VERSION, SCORING_VERSION)
    versions = f"versions {record.training_version} and {record.scoring_version}" * old
    return Line(record.config.method, " ".join(filter(None, (settings, versions))))


@lru_cache(maxsize=1024)
def _settings(config: str) -> str:
    """Return the fewest settings that make a run; "" for one of another release or of a plugin that is gone."""
    try:
        given = given_settings(RunConfig.model_validate(json.loads(config)))
    except (ValueError, TractbenchError):
        return ""
    if given["tier"] == "small":
        del given["tier"]
    return " ".join(f"{name}={_said(value)}" for name, value in given.items() if name not in OWN_PLACE)


def _said(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def figures(records: Iterable[Record], whose: Whose) -> list[Figure]:
    """Return the distances of runs on digits, those that differ in seeds only taken together."""
    cells: dict[str, list[Record]] = {}
    for record in records:
        if record.status == "done" and record.config.dataset == "digits" and METRIC in record.metrics:
            cells.setdefault(cell_key(record), []).append(record)
    found = [_figure(group, whose) for group in cells.values()]
    return sorted(found, key=lambda figure: (figure.line, figure.nfe))


def _figure(group: Sequence[Record], whose: Whose) -> Figure:
    scores: dict[int, dict[int, float]] = {}
    for record in group:
        pairs = zip(record.config.sampling_seeds, record.metrics[METRIC].per_seed, strict=True)
        scores.setdefault(record.config.seed, {}).update(pairs)
    found = spread(scores)
    tested = difference([statistics.fmean(by_sampling.values()) for by_sampling in scores.values()])
    interval = tested.interval() if tested else None
    sampling = len(next(iter(scores.values())))
    last = group[-1]
    return Figure(
        line=line_of(last),
        whose=whose,
        nfe=last.nfe_spent or last.config.nfe,
        mean=found.mean,
        interval=interval,
        text=with_interval(found.mean, interval) if interval else with_spread(found.mean, found.sampling),
        seeds=f"{found.n} training seeds" if interval else f"{sampling} sampling seed{'s' * (sampling > 1)}",
        n=found.n,
        command=last.command,
    )


def chart(found: Sequence[Figure]) -> Chart | None:
    """Return the chart of distances against NFE; None without any."""
    if not found:
        return None
    both = len({figure.whose for figure in found}) > 1
    marks = [
        Mark(f"{figure.line}, {figure.whose}" if both else str(figure.line), figure.nfe, figure.mean, figure.interval,
             figure.n)
        for figure in found
    ]  # fmt: skip
    order = sorted(marks, key=lambda mark: (mark.line, mark.x))
    return Chart("fd", "", "network evaluations (NFE)", METRIC_TITLES[METRIC], tuple(order), "nfe", "log")
