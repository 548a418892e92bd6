"""A chart of scores: what is on it, in words, as numbers, and drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from tractbench.config.numbers import format_budget
from tractbench.reports import drawing
from tractbench.reports.safe_text import spreadsheet_safe


@dataclass(frozen=True)
class Mark:
    """A place on a line of a chart.

    Attributes:
        line: name of the line.
        x: place on the axis.
        ours: our mean, None if not run.
        interval: its 95% interval over training seeds, None for fewer than two.
        n: training seeds.
        published: the published figure, None without one.
        published_error: its standard deviation as printed, None if none is printed.
    """

    line: str
    x: float | str
    ours: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 0
    published: float | None = None
    published_error: float | None = None


@dataclass(frozen=True)
class Chart:
    """A figure: lines of published figures and our own on the same axes.

    Attributes:
        id: anchor and file name.
        title: what it shows, empty where its axes say it.
        x_title: the axis, with its unit.
        y_title: the score.
        marks: places in the order of the axis.
        x: the setting on the axis.
        scale: ``names`` for names side by side; ``log``, ``linear``, or ``steps``, a logarithm that falls to the right.
        note: what else its caption has to say.
    """

    id: str
    title: str
    x_title: str
    y_title: str
    marks: tuple[Mark, ...]
    x: str
    scale: str = "names"
    note: str = ""

    @property
    def alt(self) -> str:
        """Say in words what the figure shows."""
        parts = []
        for line, marks in self.lines.items():
            values = [f"at {axis_text(self.x, mark.x)} {_described(mark)}" for mark in marks]
            parts.append((f"{line}: " if line else "") + ", ".join(values))
        return f"{self._lead} {'; '.join(parts)}."

    @property
    def _lead(self) -> str:
        return f"{self.title}{': ' * bool(self.title)}{self.y_title} against {self.x_title}."

    @property
    def lines(self) -> dict[str, list[Mark]]:
        """Places by line, in order."""
        names = dict.fromkeys(mark.line for mark in self.marks)
        return {name: [mark for mark in self.marks if mark.line == name] for name in names}

    @property
    def csv(self) -> str:
        """The numbers behind the figure, to the last bit."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["line", "x", "ours", "ours_low", "ours_high", "training_seeds", "published", "published_std"])
        for mark in self.marks:
            low, high = mark.interval or (None, None)
            values = [mark.ours, low, high, mark.n, mark.published, mark.published_error]
            writer.writerow([spreadsheet_safe(mark.line), spreadsheet_safe(str(mark.x)), *values])
        return text.getvalue()

    @property
    def svg(self) -> str:
        """The figure as SVG that takes its text colour from the page."""
        return drawing.svg(self._draw)

    def pdf(self, path: Path) -> None:
        """Write the figure as PDF."""
        drawing.pdf(self._draw, path)

    @property
    def caption(self) -> str:
        """Say what is drawn, and what markers and bars are."""
        parts = [self._lead]
        if any(mark.published is not None for mark in self.marks):
            parts.append("Hollow and dashed: published, with the printed deviation.")
        if any(mark.interval for mark in self.marks):
            parts.append("Bars: 95% interval over training seeds.")
        return " ".join([*parts, self.note]).rstrip()

    def _draw(self, axes: Any) -> None:
        places = {x: number for number, x in enumerate(dict.fromkeys(mark.x for mark in self.marks))}
        compared = any(mark.published is not None for mark in self.marks)
        joined = ("none", "none") if self.x == "method" else ("-", "--")  # between methods there is nothing
        shown: list[float] = []
        kinds = len(self.lines) * (1 + compared)
        step = min(4, 130 / len(places) / kinds)  # points between lines: together less than half of a place's room
        for index, marks in enumerate(self.lines.values()):
            style = drawing.style(index)
            for published in (True, False):
                points = [(mark, _value(mark, published)) for mark in marks]
                kept = [(mark, value) for mark, value in points if value is not None]
                if not kept:
                    continue
                place = index * (1 + compared) + (compared and not published) - (kinds - 1) / 2
                xs = [self._beside(mark.x, places, step * place) for mark, _ in kept]
                ys = [value for _, value in kept]
                shown += ys
                axes.errorbar(
                    xs, ys, yerr=_bars(kept, published), color=style["color"], marker=style["marker"], markersize=5,
                    capsize=2.5, linewidth=1.2, linestyle=joined[published], elinewidth=1,
                    markerfacecolor="none" if published else style["color"],
                )  # fmt: skip
        axes.set(xlabel=self.x_title, ylabel=self.y_title)
        if shown and max(shown) > 2.5 * min(shown) > 0:
            axes.set_yscale("log")
            drawing.plain_ticks(axes.yaxis)
        self._ticks(axes, places)
        axes.grid(axis="y", linewidth=0.4, alpha=0.4)
        self._legend(axes.figure, compared)

    def _beside(self, x: float | str, places: Mapping[float | str, int], points: float) -> float:
        """Return where a mark is drawn: so many points beside its place, so that none hides another."""
        part = points / 330  # of the width of the axes
        if self.scale == "names":
            return places[x] + part * len(places)
        values = [float(value) for value in places]
        low, high = min(values), max(values)
        if self.scale == "linear":
            return float(x) + part * (high - low)
        turned = -part if self.scale == "steps" else part
        return float(x) * float((high / low) ** turned)

    def _legend(self, figure: Any, compared: bool) -> None:
        """Name each line once below the axes, and what hollow markers are; the figure grows by what that takes."""
        from matplotlib.lines import Line2D

        names = [fill(line, 32) for line in self.lines] if len(self.lines) > 1 else []
        handles = [Line2D([], [], label=name, markersize=5, **drawing.style(i)) for i, name in enumerate(names)]
        if compared:
            key: dict[str, Any] = {"color": "#777777", "marker": "o", "markersize": 5}
            handles += [
                Line2D([], [], label="published", linestyle="--", markerfacecolor="none", **key),
                Line2D([], [], label="ours", **key),
            ]
        if not handles:
            return
        widest = max(len(part) for handle in handles for part in str(handle.get_label()).split("\n"))
        columns = max(1, min(3, len(handles), 78 // (widest + 8)))
        lines = max(1, *(name.count("\n") + 1 for name in names)) if names else 1
        figure.set_figheight(drawing.HEIGHT + 0.1 + 0.17 * lines * -(-len(handles) // columns))
        figure.legend(handles=handles, frameon=False, fontsize=8, loc="lower center", ncols=columns)

    def _ticks(self, axes: Any, places: dict[float | str, int]) -> None:
        if self.scale == "names":
            axes.set_xticks(list(places.values()), [axis_text(self.x, x) for x in places], fontsize=8)
            axes.set_xlim(-0.4, len(places) - 0.6)
            return
        values = sorted(float(x) for x in places)
        if self.scale != "linear":
            axes.set_xscale("log", base=2)
        axes.margins(x=0.1)
        axes.set_xticks(values, [axis_text(self.x, x) for x in values], fontsize=8)
        axes.minorticks_off()
        if self.scale == "steps":
            axes.invert_xaxis()


def axis_text(setting: str, x: float | str) -> str:
    """Write a setting's value as an axis or a table shows it."""
    if isinstance(x, str):
        return x.replace(",", "→") if setting == "schedule" else x
    return format_budget(int(x)) if setting == "budget" else f"{x:g}"


def _described(mark: Mark) -> str:
    ours = "not run" if mark.ours is None else f"ours {mark.ours:.3g}"
    return ours if mark.published is None else f"{ours} and published {mark.published:.3g}"


def _value(mark: Mark, published: bool) -> float | None:
    return mark.published if published else mark.ours


def _bars(kept: Sequence[tuple[Mark, float]], published: bool) -> list[list[float]] | None:
    """Return lengths of error bars: the printed deviation of published figures, our 95% interval."""
    if published:
        errors = [mark.published_error or 0.0 for mark, _ in kept]
        return [errors, errors] if any(errors) else None
    ends = [mark.interval or (value, value) for mark, value in kept]
    if not any(low < high for low, high in ends):
        return None
    return [
        [value - low for (low, _), (_, value) in zip(ends, kept, strict=True)],
        [high - value for (_, high), (_, value) in zip(ends, kept, strict=True)],
    ]
