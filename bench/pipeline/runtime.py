"""What a run may depend on without its numbers depending on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.errors import InterruptedRunError
from tractbench.progress import Tracker
from tractbench.training.loop import CHECKPOINT_EVERY


@dataclass(frozen=True)
class Runtime:
    """How and where a run is made.

    Attributes:
        device: where networks run.
        sample_batch: images held together while sampling; None for one chunk.
        weights: Inception weights instead of the published ones; the scores are then not FIDs, and other cells.
        force: run again even if the store has the result.
        checkpoint_every: seconds between two checkpoints.
        stop: asked between steps; True ends the run early, keeping what is done.
        tracker: takes curves, scores and pictures.
    """

    device: str = "cpu"
    sample_batch: int | None = None
    weights: Path | None = None
    force: bool = False
    checkpoint_every: float = CHECKPOINT_EVERY
    stop: Callable[[], bool] = lambda: False
    tracker: Tracker = field(default_factory=Tracker)


class Stoppable:
    """A denoiser that can be stopped between two evaluations, for long work that asks nobody.

    Raises:
        InterruptedRunError: ``stop`` returned True.
    """

    def __init__(self, denoiser: Denoiser, stop: Callable[[], bool], kept: str) -> None:
        self._denoiser, self._stop, self._kept = denoiser, stop, kept

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Ask, then evaluate."""
        if self._stop():
            raise InterruptedRunError(f"stopped while sampling; {self._kept}; the same command does the rest")
        return self._denoiser(x_t, t, labels)


def synchronise(device: str) -> None:
    """Wait until a GPU has done all that it was given; a CPU has."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
