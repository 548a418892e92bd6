"""The student of a cell: found in the store, else trained, from its last checkpoint if there is one.

A student is trained once, whatever the number of cells that sample it and of processes that want it: who comes second
waits, and takes over if the first one dies.
"""

from __future__ import annotations

import copy
import csv
import hashlib
import io
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter
from torch import nn

from tractbench.config.fields import RunConfig
from tractbench.config.identity import SCORING_VERSION
from tractbench.datasets.base import Dataset
from tractbench.diffusion.denoiser import Denoiser, on_device
from tractbench.errors import DamagedFileError
from tractbench.evaluation.ends import TeacherEnds
from tractbench.io.files import write_atomic
from tractbench.io.tensors import load_tensors, save_tensors
from tractbench.method import Method, Phase
from tractbench.pipeline.cell import Cell
from tractbench.pipeline.runtime import Runtime, Stoppable
from tractbench.progress import Progress
from tractbench.results.locks import OWNER, held
from tractbench.results.record import DistillationError, Training
from tractbench.results.store import CHECKPOINT, LOSSES, LOSSES_HASH, STUDENT, Store
from tractbench.seeds import generator
from tractbench.teachers.load import Teacher, new_denoiser
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation
from tractbench.training.loop import Distilled, distill
from tractbench.training.numerics import sampled_in
from tractbench.training.parallel import ALONE, Group
from tractbench.training.phases import plan_phases
from tractbench.training.state import LossPoint


@dataclass(frozen=True)
class Student:
    """What is sampled, what it took, and how far it is from the teacher's own sampler."""

    denoiser: Denoiser
    training: Training
    errors: tuple[DistillationError, ...]


def teacher_ends(cell: Cell, teacher: Teacher, store: Store, progress: Progress, runtime: Runtime) -> TeacherEnds:
    """Return where the teacher's own sampler leads, computed once a store."""
    ends = TeacherEnds(
        store.cache,
        Stoppable(_sampled(cell, teacher.denoiser, runtime), runtime.stop, "nothing was recorded"),
        cell.teacher_hash,
        cell.process,
        cell.dataset.shape,
        cell.full_steps,
        solver=cell.method.teacher_sampler(),
        clip=cell.dataset.clips,
        classes=cell.dataset.classes,
        precision=cell.config.precision,
        device=runtime.device,
        group=runtime.group,
        progress=progress,
    )
    ends.prepare()
    return ends


def _sampled(cell: Cell, denoiser: Denoiser, runtime: Runtime) -> Denoiser:
    return sampled_in(denoiser, cell.config.precision, runtime.device)


def _error(cell: Cell, ends: TeacherEnds, student: Denoiser, phase: Phase, runtime: Runtime) -> float:
    """Return how far a phase's student ends from the teacher, in as many steps as the phase ends with.

    The run's own sampling options are for its NFE, and others that share its student have others.
    """
    sampler = cell.method.as_trained().sampler(phase.end, cell.process)
    return ends.error(_sampled(cell, student, runtime), sampler, cell.method.two_times)


def make_student(
    cell: Cell, teacher: Teacher, ends: TeacherEnds, name: str, store: Store, progress: Progress, runtime: Runtime
) -> Student:
    """Return a cell's student.

    Args:
        cell: the run.
        teacher: its teacher, on the device.
        ends: where the teacher's own sampler leads.
        name: what to call the run to others that wait for the student.
        store: where students are.
        progress: draws the bar.
        runtime: where to train.

    Raises:
        DamagedFileError: the student's file or all checkpoints are damaged.
        InterruptedRunError: the run was stopped.
        RunFailedError: the loss is not finite.
    """
    if not cell.method.trains:
        error = ends.error(_sampled(cell, teacher.denoiser, runtime), cell.sampler)
        shown = DistillationError(phase=0, start=cell.full_steps, end=cell.sampler.steps, error=error)
        return Student(teacher.denoiser, Training(), (shown,))
    folder, group = store.student_folder(cell.student), runtime.group

    def there() -> bool:
        return group.from_main(lambda: not runtime.force and (folder / STUDENT).is_file())

    def abandoned() -> bool:
        """Whether who trained it was killed before its checkpoints were removed."""
        left = bool(Checkpoints(folder, cell.student, CHECKPOINT).files()) or (folder / OWNER).exists()
        return left and not held(folder)

    if there() and not group.from_main(abandoned):
        return _found(cell, teacher, ends, folder, name, progress, runtime)
    lock = store.lock_student(cell.student, name, progress.message, runtime.stop) if group.is_main else nullcontext()
    with lock:
        if there():
            if group.is_main:
                Checkpoints(folder, cell.student, CHECKPOINT).clear()
            return _found(cell, teacher, ends, folder, name, progress, runtime)
        return _trained(cell, teacher, ends, folder, name, progress, runtime)


def load_student(path: Path, student: str, cell: Cell, teacher: Teacher, group: Group = ALONE) -> Student:
    """Load a student's file; ``training.reused_from`` names the run that trained it.

    It has no distillation errors if they were measured under another version of the scoring.

    Args:
        path: the file; rank 0 alone reads it.
        student: its id.
        cell: a run that samples it.
        teacher: that run's teacher.
        group: the processes that load it.

    Raises:
        DamagedFileError: it cannot be read, or is of another student.
    """
    tensors, header = load_tensors(path, "delete it to train the student again") if group.is_main else ({}, {})
    header = group.from_main(lambda: header)
    if header["student"] != student:
        raise DamagedFileError(f"{path} is of another student; delete it to train this one")
    network = final_network(cell.config, cell.method, cell.dataset, teacher)
    try:
        network.load_state_dict(group.tensors_from_main(lambda: tensors))
    except RuntimeError as error:
        raise DamagedFileError(f"{path} does not fit its network; delete it to train again") from error
    measured = header["distillation_errors"] if header.get("scoring_version") == SCORING_VERSION else ()
    errors = TypeAdapter(tuple[DistillationError, ...]).validate_python(measured)
    return Student(network, Training.model_validate(header["training"]), errors)


def _found(
    cell: Cell, teacher: Teacher, ends: TeacherEnds, folder: Path, name: str, progress: Progress, runtime: Runtime
) -> Student:
    found = load_student(folder / STUDENT, cell.student, cell, teacher, runtime.group)
    training = found.training
    if training.reused_from == name:  # this very run trained it before
        training = training.model_copy(update={"reused_from": None, "environment": {}})
    else:
        progress.message(f"using the student of {training.reused_from}")
    denoiser = on_device(found.denoiser, runtime.device)
    errors = found.errors
    if not errors:  # of the phases before the last one there is no student any more
        phases = cell.method.phases(cell.config.schedule)
        start, end = phases[-1].start, phases[-1].end
        error = _error(cell, ends, denoiser, phases[-1], runtime)
        errors = (DistillationError(phase=len(phases), start=start, end=end, error=error),)
    return Student(denoiser, training, errors)


def _trained(
    cell: Cell, teacher: Teacher, ends: TeacherEnds, folder: Path, name: str, progress: Progress, runtime: Runtime
) -> Student:
    config, dataset, method = cell.config, cell.dataset, cell.method
    distances = method.distances(dataset.shape)
    for distance in distances.values():
        runtime.group.from_main(partial(distance.fetch, progress))
    run = Distillation(
        config,
        method,
        cell.process,
        teacher.denoiser,
        dataset.train,
        decode=dataset.decode,
        labels=dataset.train_labels,
        flips=dataset.flips,
        distances={name: distance.load() for name, distance in distances.items()},
        new_network=lambda preset: new_network(config, dataset, teacher, preset),
        device=runtime.device,
        group=runtime.group,
        micro_batch=runtime.micro_batch,
        compiling=runtime.compiling,
    )
    checkpoints = Checkpoints(folder, cell.student, f"forced-{CHECKPOINT}" if runtime.force else CHECKPOINT)
    distilled = distill(
        run,
        checkpoints,
        progress,
        stop=runtime.stop,
        error=lambda student, phase: _error(cell, ends, student, phase, runtime),
        checkpoint_every=runtime.checkpoint_every,
        tracker=runtime.tracker,
    )
    errors = tuple(
        DistillationError(phase=index, start=phase.start, end=phase.end, error=error)
        for index, (phase, error) in enumerate(
            zip(method.phases(config.schedule), distilled.distillation_errors, strict=True), 1
        )
    )
    training = Training(
        steps=distilled.steps,
        images=distilled.images,
        seconds=distilled.seconds,
        nonfinite_gradients=distilled.nonfinite_gradients,
    )
    if runtime.group.is_main:
        _keep(cell, distilled, training, errors, folder, name, runtime)
    return Student(distilled.student, training, errors)


def _keep(
    cell: Cell,
    distilled: Distilled,
    training: Training,
    errors: tuple[DistillationError, ...],
    folder: Path,
    name: str,
    runtime: Runtime,
) -> None:
    """Write a trained student and its loss curve; what it was trained from is not needed any more."""
    losses = loss_table(distilled.losses)
    for_others = {"reused_from": name, "environment": runtime.lineage()}
    header = {
        "student": cell.student,
        "training": training.model_dump(mode="json") | for_others,
        "distillation_errors": [error.model_dump() for error in errors],
        "scoring_version": SCORING_VERSION,
        LOSSES_HASH: hashlib.sha256(losses.encode()).hexdigest(),
    }
    write_atomic(folder / LOSSES, losses)
    save_tensors(folder / STUDENT, distilled.student.state_dict(), header)
    for prefix in (CHECKPOINT, f"forced-{CHECKPOINT}"):
        Checkpoints(folder, cell.student, prefix).clear()


def new_network(config: RunConfig, dataset: Dataset, teacher: Teacher, name: str) -> nn.Module:
    """Return a fresh student of one of the data set's architectures."""
    preset = dataset.network(name, config.process)
    return new_denoiser(preset, teacher.process, generator("student", config.seed, name))


def final_network(config: RunConfig, method: Method, dataset: Dataset, teacher: Teacher) -> nn.Module:
    """Return a student as the last phase ends with, to load weights into."""
    name = plan_phases(config, method.phases(config.schedule))[-1].network
    denoiser = teacher.denoiser
    if name is None and isinstance(denoiser, nn.Module):
        network = copy.deepcopy(denoiser)
    else:
        network = new_network(config, dataset, teacher, name or "")
    return method.parameterise(network, teacher.process).requires_grad_(False).eval()


def count_parameters(denoiser: Denoiser) -> int:
    """Return the number of a network's parameters, 0 for a closed form."""
    return sum(p.numel() for p in denoiser.parameters()) if isinstance(denoiser, nn.Module) else 0


def loss_table(losses: tuple[LossPoint, ...]) -> str:
    """Return a loss curve as CSV: step, phase (from 1), images, loss."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "phase", "images", "loss"])
    writer.writerows([p.step, p.phase + 1, p.images, repr(p.loss)] for p in losses)
    return text.getvalue()
