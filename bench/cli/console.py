"""Progress bars, tables and interrupts on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.box import SIMPLE
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from tractbench.cli.output import console
from tractbench.progress import Progress, Task
from tractbench.results.record import Metric, Record
from tractbench.results.store import PICTURE, RECORD


class _Amount(TextColumn):
    def render(self, task: RichTask) -> Text:
        if task.fields["unit"] != "B":
            return Text(f"{task.completed:,.0f}" + (f"/{task.total:,.0f}" if task.total else ""))
        return Text(f"{task.completed / 1e6:,.0f}" + (f"/{task.total / 1e6:,.0f}" if task.total else "") + " MB")


class _Speed(TextColumn):
    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(
            f"{speed / 1e6:,.1f} MB/s" if task.fields["unit"] == "B" else f"{speed:,.0f} {task.fields['unit']}/s"
        )


class _BarTask(Task):
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: int = 1, note: str = "") -> None:
        if note:
            self._bars.update(self._task, advance=amount, note=note)
        else:
            self._bars.update(self._task, advance=amount)


class TerminalProgress(Progress):
    """Bars and messages on standard error, so that standard output can be piped."""

    def __init__(self) -> None:
        self._console = console(stderr=True)

    @contextmanager
    def task(self, description: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Draw a bar with speed and remaining time for the length of the context."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Amount(""),
            _Speed(""),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with RichProgress(*columns, console=self._console, refresh_per_second=4) as bars:
            yield _BarTask(bars, bars.add_task(description, total=total, completed=done, unit=unit, note=""))

    def message(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, markup=False, soft_wrap=True)


def format_metric(metric: Metric) -> str:
    """Write mean and standard deviation with the deviation's two leading digits deciding the decimals."""
    return f"{metric.mean:.3f}" + (f" ± {metric.std:.3f}" if metric.std is not None else "")


def print_outcome(record: Record, reused: bool, root: Path) -> None:
    """Print a finished run's scores and where its files are."""
    config = record.config
    terminal = console()
    steps = " → ".join(map(str, config.schedule)) if config.schedule else f"{config.nfe} steps, nothing trained"
    seeds = len(config.sampling_seeds)
    title = f"{config.method} on {config.dataset}, {record.nfe_spent} NFE ({config.tier}; {steps})"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("metric")
    table.add_column(f"mean ± std, {seeds} seeds of {config.samples:,}", justify="right")
    table.add_column("real data", justify="right")
    for name, metric in record.metrics.items():
        floor = record.floors.get(name)
        table.add_row(name, format_metric(metric), "-" if floor is None else f"{floor:.3f}")
    terminal.print(table)
    spent = f"training {record.seconds.training:.0f} s ({record.training.images:,} images), " if config.schedule else ""
    state = "already done (--force runs it again); it took" if reused else "took"
    terminal.print(
        f"{state} {spent}sampling and scoring {record.seconds.sampling_and_scoring:.0f} s", markup=False, soft_wrap=True
    )
    there = ", ".join(name for name in (PICTURE, RECORD) if (root / record.folder / name).is_file())
    terminal.print(f"files: {root / record.folder}  ({there})", markup=False, soft_wrap=True)
    terminal.print(f"report: tractbench report --format html --runs {root}", markup=False, soft_wrap=True)


def print_table(headers: Mapping[str, str], rows: list[list[str]]) -> None:
    """Print rows under headers; the headers' values are their justification, ``left`` or ``right``."""
    table = Table(box=SIMPLE, padding=0)
    for index, (header, justify) in enumerate(headers.items()):
        table.add_column(header, justify="right" if justify == "right" else "left", overflow="fold", no_wrap=not index)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)
