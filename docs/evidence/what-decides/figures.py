"""Draws the figures of the study, and writes what they show as results.csv and as a table in Markdown.

python docs/evidence/what-decides/figures.py [RUNS]

With a results folder its scores are read from there; without one, from results.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy.special import stdtrit
from variants import BUDGETS, FOLLOW_UP, METHODS, MIXTURES, NETWORKS, VARIANTS

from tractbench.claims.loading import load_tables
from tractbench.pipeline.suite_cells import Choice, wanted_cells
from tractbench.plugins import use_files
from tractbench.results.store import Store

HERE = Path(__file__).parent
COLOURS = {"btd": "#D55E00", "tract": "#0072B2"}
LEVEL = 0.95


def read(runs: Path) -> pd.DataFrame:
    """Return a row for each finished run of the study's tables: table, row, seed, metric, score and identity."""
    use_files((HERE / "components.py", HERE / "networks.toml"))
    records = {record.identity: record for record in Store(runs).records() if record.status == "done"}
    rows = []
    for table in load_tables(HERE / "tables").values():
        for wanted in wanted_cells(Choice((table,)))[0]:
            if wanted.id in records:
                cell, _, seed = wanted.label.partition(" seed ")
                score = records[wanted.id].metrics[table.metric].mean
                rows.append(
                    (
                        table.name.removesuffix("-follow-up"),
                        cell.split("/")[1],
                        int(seed),
                        table.metric,
                        score,
                        wanted.id,
                    )
                )
    return pd.DataFrame(rows, columns=["table", "row", "seed", "metric", "score", "identity"])


class Scores:
    """Geometric means over training seeds, with intervals of the t distribution."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._logs = {key: np.log(group.set_index("seed")["score"]) for key, group in frame.groupby(["table", "row"])}

    def mean(self, table: str, row: str) -> tuple[float, float, float]:
        """Return mean, lower and upper limit of a row."""
        return _interval(self._logs[table, row])

    def ratio(self, table: str, row: str, other: str) -> tuple[float, float, float]:
        """Return mean, lower and upper limit of the ratio of two rows over the seeds that they share."""
        return _interval((self._logs[table, row] - self._logs[table, other]).dropna())

    def has(self, table: str, *rows: str) -> bool:
        """Whether the rows were run."""
        return all((table, row) in self._logs for row in rows)


def _interval(logs: pd.Series) -> tuple[float, float, float]:
    n, mean = len(logs), float(logs.mean())
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(logs.std()) / n**0.5 if n > 1 else float("nan")
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))


def budgets(axes: Axes, scores: Scores) -> None:
    """Draw the distance against training images."""
    for method, colour in COLOURS.items():
        rows = {192: method} | {int(budget[:-1]): f"{method}-{budget.lower()}" for budget in BUDGETS}
        points = [(x, *scores.mean("digits", row)) for x, row in sorted(rows.items()) if scores.has("digits", row)]
        x, mean, low, high = zip(*points, strict=True)
        axes.plot(x, mean, "o-", color=colour, label=method.upper(), markersize=4, linewidth=1.2)
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="training images, thousands", ylabel="fd_pixel at 1 NFE")
    axes.set_xticks([int(budget[:-1]) for budget in BUDGETS] + [192])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(frameon=False)


def changes(axes: Axes, scores: Scores) -> None:
    """Draw what each change does to its method."""
    short = [(name, label) for name, label, settings in FOLLOW_UP if "budget" not in settings]
    every = [(name, label) for name, label, _ in VARIANTS] + short
    shown = [(name, label) for name, label in every if name not in METHODS and scores.has("digits", name)]
    _dots(axes, [(f"{name.partition('-')[0].upper()}: {label}", name.partition("-")[0],
                  scores.ratio("digits", name, name.partition("-")[0])) for name, label in shown])  # fmt: skip
    axes.axvline(scores.ratio("digits", "btd", "tract")[0], color=COLOURS["btd"], linewidth=0.8, linestyle=":")
    axes.set_xticks([0.15, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2])
    axes.set_xlabel("distance over the method's own (dotted: BTD over TRACT)")


def elsewhere(axes: Axes, scores: Scores) -> None:
    """Draw TRACT over BTD for other networks, budgets and data."""
    points = [("digits", "tract", scores.ratio("digits", "tract", "btd"))]
    for network in NETWORKS:
        if scores.has("digits", f"tract-{network}", f"btd-{network}"):
            points.append((f"digits, {network}", "tract", scores.ratio("digits", f"tract-{network}", f"btd-{network}")))
    for mixture in MIXTURES:
        modes, dimensions = mixture.split(":")
        table = f"modes-{modes}-{dimensions}"
        if scores.has(table, "tract", "btd"):
            label = f"{modes} modes, {dimensions} dimensions"
            points.append((label, "tract", scores.ratio(table, "tract", "btd")))
    _dots(axes, points)
    axes.set_xlabel("TRACT over BTD; left of 1 the paper's order holds")


def _dots(axes: Axes, points: list[tuple[str, str, tuple[float, float, float]]]) -> None:
    for place, (_, method, (mean, low, high)) in enumerate(reversed(points)):
        axes.plot([low, high], [place, place], color=COLOURS[method], linewidth=1)
        axes.plot(mean, place, "o", color=COLOURS[method], markersize=4)
    axes.axvline(1, color="0.5", linewidth=0.8)
    axes.set_yticks(range(len(points)), [label for label, *_ in reversed(points)], fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def table(frame: pd.DataFrame, scores: Scores) -> str:
    """Return all means with their intervals as Markdown."""
    lines = ["| data | row | seeds | distance | 95% interval |", "| --- | --- | ---: | ---: | --- |"]
    for (name, row), group in frame.groupby(["table", "row"], sort=False):
        mean, low, high = scores.mean(name, row)
        lines.append(f"| {name} | {row} | {len(group)} | {mean:.3g} | {low:.3g} to {high:.3g} |")
    return "\n".join(lines)


def main() -> None:
    """Write results.csv, if a results folder is given, the figures, and the table to standard output."""
    if len(sys.argv) > 1:
        read(Path(sys.argv[1])).to_csv(HERE / "results.csv", index=False, float_format="%.9g")
    frame = pd.read_csv(HERE / "results.csv")
    scores = Scores(frame)
    with mpl.rc_context({"svg.hashsalt": "tractbench", "font.family": "sans-serif"}):
        for draw, height in ((budgets, 3.2), (changes, 4.6), (elsewhere, 3.0)):
            figure = Figure(figsize=(7, height), layout="constrained")
            axes = figure.subplots()
            axes.spines[["top", "right"]].set_visible(False)
            draw(axes, scores)
            figure.savefig(HERE / f"{draw.__name__}.png", dpi=130, metadata={"Software": None})
    print(table(frame, scores))


if __name__ == "__main__":
    main()
