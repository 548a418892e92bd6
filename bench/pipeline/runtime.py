"""What a run may depend on without its numbers depending on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.errors import InterruptedRunError
from tractbench.progress import Progress, Task, Tracker
from tractbench.results.provenance import environment
from tractbench.training.parallel import ALONE, Group


@dataclass(frozen=True)
class Runtime:
    """How and where a run is made.

    Attributes:
        device: where networks run.
        sample_batch: images held together while sampling; None for one chunk.
        weights: Inception weights instead of the published ones; the scores are then not FIDs, and other cells.
        force: run again even if the store has the result.
        checkpoint_every: seconds between two checkpoints; None as :func:`~tractbench.training.loop.distill` has it.
        stop: asked between steps; True ends the run early, keeping what is done.
        group: the processes that make the run together.
        micro_batch: examples whose training passes run together; None for all that a process has of a batch.
        compiling: compile the networks' passes in training and sampling.
        tracker: takes curves, scores and pictures.
    """

    device: str = "cpu"
    sample_batch: int | None = None
    weights: Path | None = None
    force: bool = False
    checkpoint_every: float | None = None
    stop: Callable[[], bool] = lambda: False
    group: Group = ALONE
    micro_batch: int | None = None
    compiling: bool = False
    tracker: Tracker = field(default_factory=Tracker)

    def lineage(self) -> dict[str, object]:
        """Return what a result was made with, as plain JSON values."""
        how = {"processes": self.group.size, "micro_batch": self.micro_batch, "compiled": self.compiling}
        return environment(self.device) | how


class Stoppable:
    """A denoiser that can be stopped between two evaluations, for long work that asks nobody.

    Raises:
        InterruptedRunError: ``stop`` returned True.
    """

    def __init__(self, denoiser: Denoiser, stop: Callable[[], bool], kept: str) -> None:
        self._denoiser, self._stop, self._kept = denoiser, stop, kept

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        """Ask, then evaluate."""
        if self._stop():
            raise InterruptedRunError(f"stopped while sampling; {self._kept}; the same command does the rest")
        return self._denoiser(x_t, t, labels, *t_end)


class StoppingProgress(Progress):
    """A reporter that ends whatever reports to it when the run is asked to stop.

    Raises:
        InterruptedRunError: from ``advance``, once ``stop`` returned True.
    """

    def __init__(self, progress: Progress, stop: Callable[[], bool]) -> None:
        self._progress, self._stop = progress, stop

    @contextmanager
    def task(self, description: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Report work, asking at every advance."""
        with self._progress.task(description, total, unit, done) as task:
            yield task if description.startswith(OWN_STOPS) else _StoppingTask(task, self._stop, description)

    def message(self, text: str) -> None:
        """Say one line."""
        self._progress.message(text)


class _StoppingTask(Task):
    def __init__(self, task: Task, stop: Callable[[], bool], description: str) -> None:
        self._task, self._stop, self._description = task, stop, description

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._task.advance(amount, note)
        if self._stop():
            raise InterruptedRunError(f"stopped: {self._description}; the same command goes on")


OWN_STOPS = ("training", "sampling and scoring")
"""Work that asks for itself, and saves or says what is kept."""


def synchronise(device: str) -> None:
    """Wait until a GPU has done all that it was given; a CPU has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
