"""Figures of a report, as SVG text."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd


def loss_figure(table: Path) -> str:
    """Return a loss curve over training images, one line a phase, as SVG that takes its text colour from the page.

    Args:
        table: CSV with step, phase, images and loss.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    losses = pd.read_csv(table)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tractbench", "font.family": "sans-serif"}):
        figure = Figure(figsize=(5.5, 2.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for phase, points in losses.groupby("phase"):
            axes.plot(points["images"], points["loss"], linewidth=1, label=f"phase {phase}")
        axes.set(xlabel="training images", ylabel="loss", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
