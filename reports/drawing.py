"""How every figure is drawn and saved: colours, markers, ticks, SVG and PDF."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#9A7B00", "#56A0D3", "#8A5FBF", "#777777")
"""After Okabe and Ito, for those who see colours differently; of a lightness that stands out on white and on black."""

MARKERS = "os^DvPX*"

WIDTH, HEIGHT = 5.5, 2.9
"""Of a figure without its legend, in inches."""


def style(index: int) -> dict[str, Any]:
    """Return colour and marker of a line; sixty-four lines have different ones."""
    rounds, place = divmod(index, len(PALETTE))
    return {"color": PALETTE[place], "marker": MARKERS[(place + rounds) % len(MARKERS)]}


def plain_ticks(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, as many as there is room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    digits = (1.0,) if high / low > 200 else (1.0, 2.0, 5.0) if high / low > 8 else (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def svg(draw: Callable[[Any], None]) -> str:
    """Return a figure as SVG that takes its text colour from the page; ``draw`` is given its axes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    _save(draw, FigureCanvasSVG, text, "svg", {"Date": None, "Creator": None})
    svg = text.getvalue()
    return re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") :])


def pdf(draw: Callable[[Any], None], path: Path) -> None:
    """Write a figure as PDF; ``draw`` is given its axes."""
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
        figure = Figure(figsize=(WIDTH, HEIGHT))
        canvas(figure)
        axes = figure.subplots()
        draw(axes)
        # margins in inches: a layout engine would draw everything once more to measure it
        height = figure.get_figheight()
        legend = height - HEIGHT
        figure.subplots_adjust(0.68 / WIDTH, (0.5 + legend) / height, 1 - 0.12 / WIDTH, 1 - 0.1 / height)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(target, format=form, transparent=True, metadata=metadata)
