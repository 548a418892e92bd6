"""What the demo shows, computed: images of every sampler from the same noises, and its ways from noise to data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from tractbench.config.resolve import resolve
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process, load_process, per_sample
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import TractbenchError
from tractbench.evaluation.sampling import fresh_noise, prior_noise
from tractbench.pipeline.cell import Cell, identify
from tractbench.pipeline.rescore import load_finished
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.samples import draw_samples
from tractbench.progress import Progress
from tractbench.results.record import Record
from tractbench.teachers.load import Teacher, load_teacher
from tractbench.training.numerics import precision, sampled_in

IMAGES, POINTS = "digits", "mixture2d"
"""Data sets that it shows."""

NOISES = 36
"""Noises that images are made of: the first ones of sampling seed 0, as in a run's pictures."""

STEPS = tuple(2**power for power in range(11))
"""Steps of the teacher, from one to all that its students learn from."""

WALKERS = 320
"""Points whose ways are shown."""

WALK_STEPS = (1, 2, 4, 8, 16, 32)
"""Steps of the exact teacher beside its solution of the ODE."""

ODE_STEPS, ODE_KNOTS = 1024, 64
"""Steps of the solution, and how many of its states are kept."""

Shown = TypeVar("Shown")

MOST = 120
"""Students of a data set; more would make the page too large."""


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


@dataclass(frozen=True)
class Walk:
    """Ways of points from noise to data, in coordinates in which their variance is at most that of noise and data.

    Attributes:
        angles: arctan(sigma / alpha) of each state, from pi/2 for noise down to 0, falling.
        states: x / sqrt(alpha^2 + sigma^2), ``[len(angles), WALKERS, 2]``. Between two of them a constant denoiser
            leads along an arc: x0 cos(angle) + eps sin(angle).
        nfe: network evaluations of a point.
        record: the run whose student it is, None for the exact teacher itself.
    """

    angles: Tensor
    states: Tensor
    nfe: int
    record: Record | None = None


@dataclass(frozen=True)
class Demo:
    """All that is shown.

    Attributes:
        noises: ``[NOISES, 1, 8, 8]``, standard normal.
        made: the teacher by its steps, then the students.
        ode: the exact teacher in very many steps.
        walks: the exact teacher by its steps, then the students.
        teacher: hash of the teacher of digits.
        left_out: why students are not shown.
    """

    noises: Tensor
    made: tuple[Made, ...]
    ode: Walk
    walks: tuple[Walk, ...]
    teacher: str
    left_out: tuple[str, ...]


def compute(records: Sequence[Record], root: Path, progress: Progress, device: str = "cpu") -> Demo:
    """Sample the teachers in their steps, and every student that a store has.

    Args:
        records: the store's runs.
        root: its folder.
        progress: draws bars.
        device: where networks run.

    Raises:
        DamagedFileError: the shipped teacher cannot be read.
    """
    left_out: list[str] = []
    runtime = Runtime(device)
    teacher_cell, teacher = _teacher(IMAGES, 1, device)
    noises = prior_noise(load_process("vp"), teacher_cell.dataset.shape, 0, range(NOISES))
    with teacher_cell.dataset.computing(), precision("fp32", device):
        ends = _Ends(runtime)
        made = []
        with progress.task("sampling the teacher of digits", len(STEPS), "sampler") as task:
            for steps in STEPS:
                cell, _ = _teacher(IMAGES, steps, device)
                made.append(_made(cell, teacher.denoiser, ends.of(cell, teacher), runtime))
                task.advance(1, f"{steps} steps")

        def images(record: Record) -> Made:
            run = load_finished(root / record.folder, device)
            return _made(run.cell, run.denoiser, ends.of(run.cell, run.teacher), runtime, record)

        made += _each(_students(records, IMAGES, left_out), images, "sampling students of digits", progress, left_out)
        ode, walks = _walks(records, root, runtime, progress, left_out)
    return Demo(noises, tuple(made), ode, tuple(walks), teacher.hash, tuple(left_out))


def _teacher(dataset: str, steps: int, device: str) -> tuple[Cell, Teacher]:
    cell = identify(*resolve({"method": "ddim", "dataset": dataset, "nfe": steps}))
    return cell, load_teacher(cell.config.teacher, cell.dataset, cell.process).to(device)


def _students(records: Iterable[Record], dataset: str, left_out: list[str]) -> list[Record]:
    """Return the runs of a data set whose students are shown, in an order that does not depend on when they ran."""
    found = [r for r in records if r.status == "done" and r.config.dataset == dataset and r.config.schedule]
    if len(found) > MOST:
        left_out.append(f"{len(found) - MOST} older runs of {dataset}: the page shows {MOST}")
    return sorted(found[-MOST:], key=lambda r: (r.config.method, r.config.nfe, r.config.seed, r.identity))


def _each(
    students: Sequence[Record],
    show: Callable[[Record], Shown],
    description: str,
    progress: Progress,
    left_out: list[str],
) -> list[Shown]:
    """Show every student that can be; of the others, say why not."""
    shown: list[Shown] = []
    if not students:
        return shown
    with progress.task(description, len(students), "student") as task:
        for record in students:
            try:
                shown.append(show(record))
            except TractbenchError as error:
                left_out.append(f"{record.folder}: {error}")
            task.advance(1, record.config.method)
    return shown


class _Ends:
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


def _made(cell: Cell, denoiser: Denoiser, target: Tensor, runtime: Runtime, record: Record | None = None) -> Made:
    own = cell.method.trains or cell.sampler.steps != cell.full_steps  # else it is the target itself
    images = _images(cell, denoiser, runtime) if own else target
    distances = (images - target).square().flatten(1).mean(1).sqrt()
    return Made(images, cell.sampler.evaluations, distances, record)


def _walks(
    records: Sequence[Record], root: Path, runtime: Runtime, progress: Progress, left_out: list[str]
) -> tuple[Walk, list[Walk]]:
    """Return the ways of the ODE, and those of the exact teacher in few steps and of the students."""
    cell, teacher = _teacher(POINTS, 1, runtime.device)
    with progress.task("solving the ODE of mixture2d", 1 + len(WALK_STEPS), "solution") as task:
        ode = _walk(cell, teacher.denoiser, Sampler.equal(ODE_STEPS), runtime)
        every = slice(None, None, ODE_STEPS // ODE_KNOTS)
        ode = Walk(ode.angles[every], ode.states[every], ode.nfe)
        task.advance(1)
        walks = []
        for steps in WALK_STEPS:
            walks.append(_walk(cell, teacher.denoiser, Sampler.equal(steps), runtime))
            task.advance(1)

    def walk(record: Record) -> Walk:
        run = load_finished(root / record.folder, runtime.device)
        return _walk(run.cell, run.denoiser, run.cell.sampler, runtime, record)

    students = _students(records, POINTS, left_out)
    return ode, walks + _each(students, walk, "following students of mixture2d", progress, left_out)


@torch.no_grad()
def _walk(cell: Cell, denoiser: Denoiser, sampler: Sampler, runtime: Runtime, record: Record | None = None) -> Walk:
    """Return the states that a sampler visits."""
    process, shape = cell.process, cell.dataset.shape
    start = prior_noise(process, shape, 0, range(WALKERS)).double().to(runtime.device)
    fresh = [one.to(runtime.device) for one in fresh_noise(sampler, shape, 0, range(WALKERS))]
    sampled = sampled_in(denoiser, cell.config.precision, runtime.device)
    states = [start]
    sample_ode(
        sampled, process, start, sampler, fresh=fresh, clip=cell.config.clip_sample, on_step=states.append,
        two_times=record is not None and cell.method.two_times,
    )  # fmt: skip
    return Walk(*_normal(process, sampler.times, torch.stack(states).cpu()), sampler.evaluations, record)


def _normal(process: Process, times: Sequence[float], states: Tensor) -> tuple[Tensor, Tensor]:
    """Return angles and states ``[T, N, 2]`` in the coordinates of :class:`Walk`."""
    t = torch.tensor(times, dtype=torch.float64)
    alpha, sigma = process.alpha(t), process.sigma(t)
    return torch.atan2(sigma, alpha), (states / per_sample(torch.hypot(alpha, sigma), states)).flatten(2)
