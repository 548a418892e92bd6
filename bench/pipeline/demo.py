"""What the demo shows, computed: images of every sampler from the same noises, and its ways from noise to data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from tractbench.config.resolve import resolve
from tractbench.diffusion.processes import load_process
from tractbench.diffusion.sampler import Sampler
from tractbench.errors import TractbenchError
from tractbench.evaluation.sampling import prior_noise
from tractbench.pipeline.cell import Cell, identify
from tractbench.pipeline.demo_images import NOISES, STEPS, Ends, Made, make
from tractbench.pipeline.demo_walks import ODE_KNOTS, ODE_STEPS, WALK_STEPS, Walk, walk_of
from tractbench.pipeline.rescore import load_finished
from tractbench.pipeline.runtime import Runtime
from tractbench.progress import Progress
from tractbench.results.record import Record
from tractbench.teachers.load import Teacher, load_teacher
from tractbench.training.numerics import precision

IMAGES, POINTS = "digits", "mixture2d"
"""Data sets that it shows."""

Shown = TypeVar("Shown")

MOST = 120
"""Students of a data set; more would make the page too large."""


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
        ends = Ends(runtime)
        made = []
        with progress.task("sampling the teacher of digits", len(STEPS), "sampler") as task:
            for steps in STEPS:
                cell, _ = _teacher(IMAGES, steps, device)
                made.append(make(cell, teacher.denoiser, ends.of(cell, teacher), runtime))
                task.advance(1, f"{steps} steps")

        def images(record: Record) -> Made:
            run = load_finished(root / record.folder, device)
            return make(run.cell, run.denoiser, ends.of(run.cell, run.teacher), runtime, record)

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


def _walks(
    records: Sequence[Record], root: Path, runtime: Runtime, progress: Progress, left_out: list[str]
) -> tuple[Walk, list[Walk]]:
    """Return the ways of the ODE, and those of the exact teacher in few steps and of the students."""
    cell, teacher = _teacher(POINTS, 1, runtime.device)
    with progress.task("solving the ODE of mixture2d", 1 + len(WALK_STEPS), "solution") as task:
        ode = walk_of(cell, teacher.denoiser, Sampler.equal(ODE_STEPS), runtime)
        every = slice(None, None, ODE_STEPS // ODE_KNOTS)
        ode = Walk(ode.angles[every], ode.states[every], ode.nfe)
        task.advance(1)
        walks = []
        for steps in WALK_STEPS:
            walks.append(walk_of(cell, teacher.denoiser, Sampler.equal(steps), runtime))
            task.advance(1)

    def walk(record: Record) -> Walk:
        run = load_finished(root / record.folder, runtime.device)
        return walk_of(run.cell, run.denoiser, run.cell.sampler, runtime, record)

    students = _students(records, POINTS, left_out)
    return ode, walks + _each(students, walk, "following students of mixture2d", progress, left_out)
