"""The one training loop: a distillation to its end, with checkpoints on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tractbench.errors import InterruptedRunError
from tractbench.method import Phase
from tractbench.progress import Progress, Tracker
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation
from tractbench.training.state import LossPoint, State

CHECKPOINT_EVERY = 600.0
"""Seconds of training that a killed run may lose, unless one checkpoint takes more than 1% of them."""

CHECKPOINT_SHARE = 0.01
"""Of the time, what checkpoints may take where nobody says how often they are written."""


@dataclass(frozen=True)
class Distilled:
    """A trained student.

    Attributes:
        student: the inference average, in the student's dtype, without gradients.
        losses: the loss curve.
        distillation_errors: what the run was asked to measure at the end of each phase.
        nonfinite_gradients: entries of gradients that were replaced.
        steps: optimiser steps.
        images: training images really seen.
        seconds: time spent training, over all sessions.
    """

    student: nn.Module
    losses: tuple[LossPoint, ...]
    distillation_errors: tuple[float, ...]
    nonfinite_gradients: int
    steps: int
    images: int
    seconds: float


def distill(
    run: Distillation,
    checkpoints: Checkpoints,
    progress: Progress,
    *,
    checkpoint_every: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    error: Callable[[nn.Module, Phase], float] | None = None,
    tracker: Tracker | None = None,
) -> Distilled:
    """Train to the end, from the newest checkpoint if there is one.

    Args:
        run: a fresh distillation.
        checkpoints: the student's.
        progress: draws the bar.
        checkpoint_every: seconds between checkpoints; None for CHECKPOINT_EVERY, or so seldom that they take
            CHECKPOINT_SHARE of the time. One is also made when stopped.
        stop: asked after every step; True, on any process of a group, saves a checkpoint and stops all.
        error: measured on the inference average at the end of each phase, by the method's own solver.
        tracker: takes loss, learning rate, images/s and gradient norm whenever the loss is recorded, and the errors.

    Raises:
        DamagedFileError: there are checkpoints, and all are damaged.
        InterruptedRunError: ``stop`` returned True.
        RunFailedError: the loss became infinite or NaN.
    """
    _restore(run, checkpoints, progress)
    group, due = run.group, time.monotonic() + (checkpoint_every or CHECKPOINT_EVERY)
    curves = _Curves(run, tracker) if tracker is not None and tracker.active else None
    try:
        with progress.task("training", run.total, "step", run.step) as task:
            while run.step < run.total:
                started = time.perf_counter()
                run.train_step()
                run.seconds += time.perf_counter() - started
                if error is not None:
                    run.measure(error)
                note = ""
                if run.losses and run.losses[-1].step == run.step:
                    note = f"phase {run.losses[-1].phase + 1}/{len(run.plans)}  loss {run.losses[-1].loss:.4g}"
                task.advance(1, note)
                if curves is not None:
                    curves.update()
                stopping, saving = group.agree(run.step < run.total and stop(), time.monotonic() >= due)
                if stopping or saving:
                    begun = time.monotonic()
                    _save(run, checkpoints)
                    now = time.monotonic()
                    due = now + (checkpoint_every or max(CHECKPOINT_EVERY, (now - begun) / CHECKPOINT_SHARE))
                if stopping:
                    raise InterruptedRunError(
                        f"stopped at training step {run.step} of {run.total}; kept: {checkpoints.path(run.step)}; "
                        "the same command goes on from there"
                    )
    finally:
        run.close()
    return Distilled(
        student=run.averaged(),
        losses=tuple(run.losses),
        distillation_errors=tuple(run.distillation_errors),
        nonfinite_gradients=run.nonfinite_gradients,
        steps=run.step,
        images=run.step * run.config.batch,
        seconds=run.seconds,
    )


def _restore(run: Distillation, checkpoints: Checkpoints, progress: Progress) -> None:
    """Go on from the newest checkpoint, which rank 0 alone reads, whatever the number of processes that wrote it."""
    group = run.group
    saved = checkpoints.newest(progress.message) if group.is_main else None
    numbers = group.from_main(lambda: saved.numbers if saved is not None else None)
    if numbers is None:
        return
    tensors = group.tensors_from_main(lambda: saved.tensors if saved is not None else {})
    run.restore(State(tensors, numbers))  # the run holds copies
    progress.message(f"resuming at step {run.step} of {run.total}")


def _save(run: Distillation, checkpoints: Checkpoints) -> None:
    """Write a checkpoint on rank 0; the others wait, as launchers end all processes soon after the first."""
    state = run.state()
    if run.group.is_main:
        checkpoints.save(state)
    run.group.barrier()


class _Curves:
    """Sends what is new to a tracker; the device is asked only where recording the loss has waited for it anyway."""

    def __init__(self, run: Distillation, tracker: Tracker) -> None:
        self._run, self._tracker = run, tracker
        self._step, self._seconds, self._errors = run.step, run.seconds, len(run.distillation_errors)

    def update(self) -> None:
        """Send the last step's values, if the loss was recorded at it."""
        run = self._run
        values: dict[str, float] = {}
        if run.losses and run.losses[-1].step == run.step:
            images = (run.step - self._step) * run.config.batch
            values = {
                "train/loss": run.losses[-1].loss,
                "train/phase": run.losses[-1].phase + 1,
                "train/learning_rate": run.optimiser.rate,
                "train/images_per_s": images / (run.seconds - self._seconds),
                "train/gradient_norm": run.gradient_norm(),
            }
            self._step, self._seconds = run.step, run.seconds
        if len(run.distillation_errors) > self._errors:
            self._errors = len(run.distillation_errors)
            values["distillation_error"] = run.distillation_errors[-1]
        if values:
            self._tracker.log(values, run.step)
