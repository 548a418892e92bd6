"""Figures of one run: its loss curve and its distillation error by phase."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tractbench.reports.drawing import plain_ticks, svg
from tractbench.results.record import DistillationError


def loss_figure(table: Path) -> str:
    """Return a loss curve over training images, one line a phase, as SVG that takes its text colour from the page.

    Args:
        table: CSV with step, phase, images and loss.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    losses = pd.read_csv(table)
    losses["images"] /= 1024

    def draw(axes: Any) -> None:
        for phase, points in losses.groupby("phase"):
            axes.plot(points["images"], points["loss"], linewidth=1, label=f"phase {phase}")
        axes.set(xlabel="training images", ylabel="loss", yscale="log")
        plain_ticks(axes.yaxis)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 4, 8]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda images, _: f"{images:,.0f}K"))
        axes.legend(frameon=False, ncols=2, fontsize=8)

    return svg(draw)


def error_figure(errors: Sequence[DistillationError]) -> str:
    """Return the distance to the teacher's full sampler after each phase, as SVG."""

    def draw(axes: Any) -> None:
        axes.plot([e.phase for e in errors], [e.error for e in errors], marker="o", markersize=4, linewidth=1)
        axes.set(xlabel="after the phase to so many steps", ylabel="mean squared distance", yscale="log")
        plain_ticks(axes.yaxis)
        axes.set_xticks([e.phase for e in errors], [str(e.end) for e in errors])

    return svg(draw)
