"""Figures of a report, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tractbench.results.record import DistillationError


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
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tractbench", "font.family": "sans-serif"}):
        figure = Figure(figsize=(5.5, 2.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
