"""Figures of a report: SVG for pages, PDF for papers, and the numbers behind them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tractbench.config import format_budget
from tractbench.results.record import DistillationError

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#9A7B00", "#56A0D3", "#8A5FBF", "#777777")
"""After Okabe and Ito, for those who see colours differently; of a lightness that stands out on white and on black."""

MARKERS = "os^DvPX*"


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
        title: what it shows.
        x_title: the axis, with its unit.
        y_title: the score.
        marks: places in the order of the axis.
        x: the setting on the axis.
        scale: ``names`` for names side by side; ``log``, ``linear``, or ``steps``, a logarithm that falls to the right.
    """

    id: str
    title: str
    x_title: str
    y_title: str
    marks: tuple[Mark, ...]
    x: str
    scale: str = "names"

    @property
    def alt(self) -> str:
        """Say in words what the figure shows."""
        parts = []
        for line, marks in self.lines.items():
            values = [f"at {axis_text(self.x, mark.x)} {_described(mark)}" for mark in marks]
            parts.append((f"{line}: " if line else "") + ", ".join(values))
        return f"{self.title}. {self.y_title} against {self.x_title}. {'; '.join(parts)}."

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
        return _svg(self._draw)

    def pdf(self, path: Path) -> None:
        """Write the figure as PDF."""
        _pdf(self._draw, path)

    def _draw(self, axes: Any) -> None:
        places = {x: number for number, x in enumerate(dict.fromkeys(mark.x for mark in self.marks))}
        compared = any(mark.published is not None for mark in self.marks)
        joined = ("none", "none") if self.x == "method" else ("-", "--")  # between methods there is nothing
        shown: list[float] = []
        for index, (line, marks) in enumerate(self.lines.items()):
            colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
            for published in (True, False):
                points = [(mark, _value(mark, published)) for mark in marks]
                kept = [(mark, value) for mark, value in points if value is not None]
                if not kept:
                    continue
                xs = [places[mark.x] if self.scale == "names" else float(mark.x) for mark, _ in kept]
                ys = [value for _, value in kept]
                shown += ys
                name = ("published" if published else "ours") if compared or not line else ""
                axes.errorbar(
                    xs, ys, yerr=_bars(kept, published), color=colour, marker=marker, markersize=5.5, capsize=3,
                    linewidth=1.2, linestyle=joined[published], elinewidth=1,
                    markerfacecolor="none" if published else colour,
                    label=", ".join(filter(None, [line, name])),
                )  # fmt: skip
        axes.set(xlabel=self.x_title, ylabel=self.y_title)
        if shown and max(shown) > 4 * min(shown) > 0:
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis)
        self._ticks(axes, places)
        axes.grid(axis="y", linewidth=0.4, alpha=0.4)
        if compared or len(self.lines) > 1:
            axes.figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2 if compared else 3)

    def _ticks(self, axes: Any, places: dict[float | str, int]) -> None:
        if self.scale == "names":
            axes.set_xticks(list(places.values()), [axis_text(self.x, x) for x in places], fontsize=8)
            axes.set_xlim(-0.4, len(places) - 0.6)
            return
        values = sorted(float(x) for x in places)
        if self.scale != "linear":
            axes.set_xscale("log", base=2)
        axes.set_xticks(values, [axis_text(self.x, x) for x in values], fontsize=8)
        axes.minorticks_off()
        if self.scale == "steps":
            axes.invert_xaxis()


def axis_text(setting: str, x: float | str) -> str:
    """Write a setting's value as an axis or a table shows it."""
    if isinstance(x, str):
        return x.replace(",", "→") if setting == "schedule" else x
    return format_budget(int(x)) if setting == "budget" else f"{x:g}"


def spreadsheet_safe(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "@", "\t", "\r") or (text[:1] == "-" and not _is_number(text)) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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


def _plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    wide = high / low > 200
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def loss_figure(table: Path) -> str:
    """Return a loss curve over training images, one line a phase, as SVG that takes its text colour from the page.

    Args:
        table: CSV with step, phase, images and loss.
    """
    losses = pd.read_csv(table)

    def draw(axes: Any) -> None:
        for phase, points in losses.groupby("phase"):
            axes.plot(points["images"], points["loss"], linewidth=1, label=f"phase {phase}")
        axes.set(xlabel="training images", ylabel="loss", yscale="log")
        axes.legend(frameon=False)

    return _svg(draw)


def error_figure(errors: Sequence[DistillationError]) -> str:
    """Return the distance to the teacher's full sampler after each phase, as SVG."""

    def draw(axes: Any) -> None:
        axes.plot([e.phase for e in errors], [e.error for e in errors], marker="o", markersize=4, linewidth=1)
        axes.set(xlabel="phase", ylabel="mean squared distance", yscale="log")
        axes.set_xticks([e.phase for e in errors], [f"{e.start} → {e.end}" for e in errors])

    return _svg(draw)


def _svg(draw: Callable[[Any], None]) -> str:
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    _save(draw, FigureCanvasSVG, text, "svg", {"Date": None, "Creator": None})
    svg = text.getvalue()
    return re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") :])


def _pdf(draw: Callable[[Any], None], path: Path) -> None:
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    _save(draw, FigureCanvasPdf, path, "pdf", {"CreationDate": None, "Creator": None, "Producer": None})


def _save(draw: Callable[[Any], None], canvas: Any, target: Any, form: str, metadata: dict[str, None]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "tractbench",
        "font.family": "sans-serif",
        "pdf.fonttype": 42,
        "text.parse_math": False,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(5.5, 2.9), layout="constrained")
        canvas(figure)
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(target, format=form, transparent=True, metadata=metadata)
