"""The images of the demo: what every sampler of digits makes of the same noises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.sampler import Sampler
from tractbench.pipeline.cell import Cell
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.samples import draw_samples
from tractbench.results.record import Record
from tractbench.teachers.load import Teacher
from tractbench.training.numerics import sampled_in

NOISES = 36
"""Noises that images are made of: the first ones of sampling seed 0, as in a run's pictures."""

STEPS = tuple(2**power for power in range(11))
"""Steps of the teacher, from one to all that its students learn from."""


@dataclass(frozen=True)
class Made:
    """Images that one sampler makes of the noises.

    Attributes:
        images: ``[NOISES, 1, 8, 8]`` in [-1, 1], on the data's grey levels.
        nfe: network evaluations of an image.
        distances: of each to what the teacher makes of the same noise in all its steps, root mean square over pixels.
        record: the run whose student it is, None for the shipped teacher itself.
    """

    images: Tensor
    nfe: int
    distances: Tensor
    record: Record | None = None


class Ends:
    """What teachers make of the noises in all their steps, each computed once."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: dict[tuple[str, int, str], Tensor] = {}

    def of(self, cell: Cell, teacher: Teacher) -> Tensor:
        """Return the images that a cell's students are taught to make."""
        key = (cell.teacher_hash, cell.full_steps, cell.method.teacher_sampler())
        if key not in self._known:
            full = Sampler.equal(cell.full_steps, cell.method.teacher_sampler())
            self._known[key] = _images(cell, teacher.denoiser, self._runtime, full, two_times=False)
        return self._known[key]


def _images(
    cell: Cell, denoiser: Denoiser, runtime: Runtime, sampler: Sampler | None = None, two_times: bool | None = None
) -> Tensor:
    sampled = sampled_in(denoiser, cell.config.precision, runtime.device)
    drawn = draw_samples(cell, sampled, 0, runtime, count=NOISES, chunk=NOISES, sampler=sampler, two_times=two_times)
    return cell.dataset.decode(cell.dataset.quantise(torch.cat(list(drawn))))


def make(cell: Cell, denoiser: Denoiser, target: Tensor, runtime: Runtime, record: Record | None = None) -> Made:
    """Return the images of a cell's sampler, and how far they are from ``target``, its teacher's in all steps."""
    own = cell.method.trains or cell.sampler.steps != cell.full_steps  # else it is the target itself
    images = _images(cell, denoiser, runtime) if own else target
    distances = (images - target).square().flatten(1).mean(1).sqrt()
    return Made(images, cell.sampler.evaluations, distances, record)
