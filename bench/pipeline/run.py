"""One run, top to bottom: teacher, distil, sample, score, record."""

from __future__ import annotations

import copy
import csv
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from tractbench.config.fields import RunConfig
from tractbench.config.identity import RESULTS_VERSION, identity, student_id
from tractbench.datasets.base import Dataset
from tractbench.datasets.formats.mixture import Mixture
from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.denoiser import CountingDenoiser, Denoiser
from tractbench.diffusion.solvers import sample_ode, solver_steps
from tractbench.errors import DamagedFileError, InterruptedRunError, RunFailedError
from tractbench.evaluation.ends import ENDS, TeacherEnds
from tractbench.evaluation.metrics import Scorer, make_scorer
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.sampling import prior_noise, sample
from tractbench.io.files import write_atomic
from tractbench.io.tensors import load_tensors, save_tensors, tensors_digest
from tractbench.method import Method
from tractbench.progress import Progress, Task
from tractbench.registry import plugin_source_hash
from tractbench.results.pictures import Plane, save_grid, save_mosaic, save_plane
from tractbench.results.provenance import command_line, environment
from tractbench.results.record import DistillationError, Metric, Record, Seconds, Training
from tractbench.results.store import CHECKPOINT, GRID, LOSSES, PICTURE, STUDENT, TEACHER_GRID, Store
from tractbench.seeds import generator
from tractbench.teachers.load import Teacher, load_teacher, new_denoiser
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation
from tractbench.training.loop import distill
from tractbench.training.phases import plan_phases
from tractbench.training.state import LossPoint

GRID_COLUMNS = 6
GRID_IMAGES = 36
POINTS = 2000
PATHS = 24

Made = tuple[Denoiser, Training, tuple[DistillationError, ...]]
"""What is sampled, what it took, and how far it is from the teacher's full sampler."""


@dataclass(frozen=True)
class Runtime:
    """What a run may depend on without its numbers depending on it.

    Attributes:
        device: where networks run.
        sample_batch: images held together while sampling; None for one chunk.
        weights: Inception weights instead of the published ones; the scores are then not FIDs, and other cells.
        force: run again even if the store has the result.
        stop: asked between steps; True ends the run early, keeping what is done.
    """

    device: str = "cpu"
    sample_batch: int | None = None
    weights: Path | None = None
    force: bool = False
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Outcome:
    """A run's record, and whether the store had it already."""

    record: Record
    reused: bool


def run(
    config: RunConfig, method: Method, dataset: Dataset, store: Store, progress: Progress, runtime: Runtime
) -> Outcome:
    """Make one cell of a table, or find it made.

    Raises:
        ConfigError, StoreError, DamagedFileError: nothing was run.
        RunFailedError: the run failed; its record says why.
        InterruptedRunError: the run was stopped; the message says what is kept.
    """
    with dataset.computing():
        return _run(config, method, dataset, store, progress, runtime)


def _run(
    config: RunConfig, method: Method, dataset: Dataset, store: Store, progress: Progress, runtime: Runtime
) -> Outcome:
    protocol = load_protocol(config.protocol)
    teacher = load_teacher(config.teacher, dataset, config.process, config.grid_steps)
    scorer = make_scorer(
        dataset,
        protocol,
        config.chunk,
        config.samples,
        device=runtime.device,
        progress=progress,
        weights=runtime.weights,
    )
    student = student_id(config, method, teacher.hash, dataset)
    cell = identity(student, config, scorer.reference_hash)
    if not runtime.force and (found := store.find(cell)):
        return Outcome(found, reused=True)
    folder = store.folder(config, student, cell)
    with store.lock(folder):
        job = _Job(config, method, dataset, teacher, scorer, store, progress, runtime, student, cell, folder)
        return Outcome(job.run(), reused=False)


@dataclass(frozen=True)
class _Job:
    """A run that is being made, in a folder that is locked."""

    config: RunConfig
    method: Method
    dataset: Dataset
    teacher: Teacher
    scorer: Scorer
    store: Store
    progress: Progress
    runtime: Runtime
    student: str
    cell: str
    folder: Path

    def run(self) -> Record:
        """Train if needed, sample, score and record."""
        started = time.perf_counter()
        write_atomic(self.folder / "config.json", self.config.model_dump_json(indent=2) + "\n")
        base = {
            "identity": self.cell,
            "student": self.student,
            "results_version": RESULTS_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": self.config,
            "environment": environment(self.runtime.device),
            "command": command_line(),
            "folder": self.folder.name,
        }
        hashes = {
            "teacher": self.teacher.hash,
            "data": self.dataset.fingerprint,
            "method_source": plugin_source_hash(type(self.method)),
            "data_source": plugin_source_hash(type(self.dataset)),
            "reference": self.scorer.reference_hash,
        }
        try:
            network, training, errors = self._student() if self.method.trains else self._teacher_itself()
            sampling_started = time.perf_counter()
            metrics = self._score(network)
        except RunFailedError as error:
            failed = Record.model_validate({**base, "status": "failed", "reason": str(error), "hashes": hashes})
            self.store.append(failed)
            raise
        sampled = time.perf_counter()
        record = Record.model_validate(
            {
                **base,
                "status": "done",
                "metrics": metrics,
                "floors": self.scorer.floors,
                "distillation_errors": errors,
                "nfe_spent": self._evaluations(network),
                "parameters": count_parameters(network),
                "training": training,
                "seconds": Seconds(
                    training=training.seconds,
                    sampling_and_scoring=sampled - sampling_started,
                    total=time.perf_counter() - started,
                ),
                "hashes": hashes | {"student": _weights_hash(network)},
                "basis": self.scorer.basis.model_dump(mode="json"),
                "deviations": deviations(self.config, self.scorer, self.dataset),
            }
        )
        self.store.append(record)
        self._checkpoints.clear()
        self._draw(network)
        return record

    @property
    def _checkpoints(self) -> Checkpoints:
        """The run's own checkpoints; a forced run has others, which only a forced run goes on from."""
        return Checkpoints(self.folder, self.student, f"forced-{CHECKPOINT}" if self.runtime.force else CHECKPOINT)

    @cached_property
    def _teacher_denoiser(self) -> Denoiser:
        """The teacher on the device; there is no other copy of it."""
        denoiser = self.teacher.denoiser
        if isinstance(denoiser, nn.Module):
            return denoiser.to(self.runtime.device).requires_grad_(False).eval()
        return denoiser.to(self.runtime.device) if isinstance(denoiser, MixtureDenoiser) else denoiser

    @property
    def _full_steps(self) -> int:
        return self.config.schedule[0] if self.config.schedule else self.config.grid_steps

    @property
    def _steps(self) -> int:
        """Steps of the sampler that spends the run's NFE."""
        return solver_steps(self.method.sampler(), self.config.nfe)

    @cached_property
    def _teacher_ends(self) -> TeacherEnds:
        ends = TeacherEnds(
            self.store.cache,
            self._teacher_denoiser,
            self.teacher.hash,
            self.teacher.process,
            self.dataset.shape,
            self._full_steps,
            solver=self.method.teacher_sampler(),
            clip=self.config.clip_sample,
            classes=self.dataset.classes,
            device=self.runtime.device,
            count=min(ENDS, self.config.samples),
        )
        if not ends.known:
            with self.progress.task(f"teacher, {self._full_steps} steps", ends.count, "image") as task:
                ends.compute(task)
        return ends

    def _teacher_itself(self) -> Made:
        denoiser = self._teacher_denoiser
        error = self._teacher_ends.error(denoiser, self._steps, self.method.sampler())
        return denoiser, Training(), (self._error(0, self._full_steps, self._steps, error),)

    def _error(self, phase: int, start: int, end: int, error: float) -> DistillationError:
        return DistillationError(phase=phase, start=start, end=end, error=error)

    def _student(self) -> Made:
        """Return the student: from this store if it is there, else trained, from a checkpoint if there is one."""
        if not self.runtime.force:
            for path in self.store.student_files(self.student, STUDENT):
                found = self._load_student(path)
                if found:
                    return found
        run = Distillation(
            self.config,
            self.method,
            self.teacher.process,
            self._teacher_denoiser,
            self.dataset.train,
            decode=self.dataset.decode,
            labels=self.dataset.train_labels,
            flips=self.dataset.flips,
            new_network=self._new_network,
            device=self.runtime.device,
        )
        checkpoints = self._checkpoints
        if not checkpoints.files() and not self.runtime.force:
            for other in self.store.student_files(self.student, f"{CHECKPOINT}-*.safetensors"):
                shutil.copyfile(other, self.folder / other.name)
        ends = self._teacher_ends
        distilled = distill(
            run,
            checkpoints,
            self.progress,
            stop=self.runtime.stop,
            error=lambda student, phase: ends.error(student, phase.end, self.method.sampler()),
        )
        errors = tuple(
            self._error(index, phase.start, phase.end, error)
            for index, (phase, error) in enumerate(
                zip(self.method.phases(self.config.schedule), distilled.distillation_errors, strict=True), 1
            )
        )
        training = Training(
            steps=distilled.steps,
            images=distilled.images,
            seconds=distilled.seconds,
            nonfinite_gradients=distilled.nonfinite_gradients,
        )
        write_atomic(self.folder / LOSSES, loss_table(distilled.losses))
        header = {
            "student": self.student,
            "training": training.model_dump(),
            "distillation_errors": [error.model_dump() for error in errors],
        }
        save_tensors(self.folder / STUDENT, distilled.student.state_dict(), header)
        return distilled.student, training, errors

    def _new_network(self, name: str) -> nn.Module:
        return new_network(self.config, self.dataset, self.teacher, name)

    def _final_network(self) -> nn.Module:
        return final_network(self.config, self.method, self.dataset, self.teacher).to(self.runtime.device)

    def _load_student(self, path: Path) -> Made | None:
        tensors, header = load_tensors(path, "delete it to train the student again")
        if header["student"] != self.student:
            return None
        network = self._final_network()
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise DamagedFileError(f"{path} does not fit its network; delete it to train again") from error
        reused_from = None
        if path.parent != self.folder:
            reused_from = path.parent.name
            for name in (STUDENT, LOSSES):
                _link(path.parent / name, self.folder / name)
            self.progress.message(f"using the student of {reused_from}")
        training = Training.model_validate(header["training"]).model_copy(update={"reused_from": reused_from})
        errors = TypeAdapter(tuple[DistillationError, ...]).validate_python(header["distillation_errors"])
        return network, training, errors

    def _sample(
        self, denoiser: Denoiser, seed: int, count: int, chunk: int, steps: int, solver: str, task: Task | None = None
    ) -> Iterator[Tensor]:
        images = sample(
            denoiser,
            self.teacher.process,
            self.dataset.shape,
            seed,
            count,
            steps,
            chunk=chunk,
            batch=self.runtime.sample_batch,
            solver=solver,
            classes=self.dataset.classes,
            clip=self.config.clip_sample,
            device=self.runtime.device,
            task=task,
        )
        for batch in images:
            if self.runtime.stop():
                kept = "kept: the trained student" if self.method.trains else "nothing was recorded"
                raise InterruptedRunError(f"stopped while sampling; {kept}; the same command does the rest")
            if not bool(torch.isfinite(batch).all()):
                raise RunFailedError(f"sampling seed {seed} gave images that are not finite")
            yield batch

    def _evaluations(self, denoiser: Denoiser) -> int:
        """Return how many denoiser evaluations the sampler really spends on an image, by counting them."""
        counter = CountingDenoiser(denoiser)
        for _ in self._sample(counter, 0, 1, 1, self._steps, self.method.sampler()):
            pass
        return counter.evaluations

    def _score(self, denoiser: Denoiser) -> dict[str, Metric]:
        config = self.config
        self.scorer.prepare()
        per_seed: list[dict[str, float]] = []
        with self.progress.task("sampling and scoring", config.samples * len(config.sampling_seeds), "image") as task:
            for seed in config.sampling_seeds:
                batches = self._sample(
                    denoiser, seed, config.samples, config.chunk, self._steps, self.method.sampler(), task
                )
                protocol = self.scorer.protocol
                per_seed.append(self.scorer.score(protocol.quantised(batch, self.dataset) for batch in batches))
                first = protocol.metrics[0]
                task.advance(0, f"seed {seed}  {first} {per_seed[-1][first]:.4g}")
        return {name: Metric.of([scores[name] for scores in per_seed]) for name in self.scorer.protocol.metrics}

    def _draw(self, denoiser: Denoiser) -> None:
        """Draw samples of the teacher in all its steps, the teacher in the run's steps and the student."""
        teacher, solver = self._teacher_denoiser, self.method.sampler()
        panels = {
            _title("teacher", self._full_steps): (teacher, self._full_steps, self.method.teacher_sampler()),
            _title("teacher", self._steps): (teacher, self._steps, solver),
        }
        if self.method.trains:
            panels[_title(self.config.method, self._steps)] = (denoiser, self._steps, solver)
        seed = self.config.sampling_seeds[0]
        path = self.folder / PICTURE
        with self.progress.task("drawing samples", len(panels), "panel") as task:
            if isinstance(self.dataset, Mixture):
                self._draw_points(path, panels, seed, task)
                return
            images, count = {}, min(GRID_IMAGES, self.config.samples)
            for title, job in panels.items():
                shown = torch.cat(list(self._sample(job[0], seed, count, count, *job[1:])))
                images[title] = self.dataset.decode(self.dataset.quantise(shown))
                task.advance(1, title)
            save_grid(path, images, GRID_COLUMNS)
            drawn = list(images.values())
            save_mosaic(self.folder / TEACHER_GRID, drawn[0], GRID_COLUMNS)
            save_mosaic(self.folder / GRID, drawn[-1], GRID_COLUMNS)

    def _draw_points(self, path: Path, panels: dict[str, tuple[Denoiser, int, str]], seed: int, task: Task) -> None:
        """Draw paths and samples in the plane of the first two coordinates."""
        shown = {}
        for title, (denoiser, steps, solver) in panels.items():
            points = torch.cat(list(self._sample(denoiser, seed, POINTS, self.config.chunk, steps, solver)))
            noise = prior_noise(self.teacher.process, self.dataset.shape, seed, range(PATHS))
            states = [noise.to(self.runtime.device)]
            with torch.no_grad():
                sample_ode(denoiser, self.teacher.process, states[0], steps, solver=solver,
                           clip=self.config.clip_sample, on_step=states.append)  # fmt: skip
            shown[title] = Plane(_plane(points.flatten(1)), _plane(torch.stack(states).flatten(2).cpu()))
            task.advance(1, title)
        density = self.dataset.density if isinstance(self.dataset, Mixture) and self.dataset.shape[0] == 2 else None
        save_plane(path, shown, density)


def new_network(config: RunConfig, dataset: Dataset, teacher: Teacher, name: str) -> nn.Module:
    """Return a fresh student of one of the data set's architectures."""
    preset = dataset.network(name, config.process)
    return new_denoiser(preset, teacher.process, generator("student", config.seed, name))


def final_network(config: RunConfig, method: Method, dataset: Dataset, teacher: Teacher) -> nn.Module:
    """Return a denoiser of the architecture that the last phase ends with, to load a student's weights into."""
    name = plan_phases(config, method.phases(config.schedule))[-1].network
    denoiser = teacher.denoiser
    if name is None and isinstance(denoiser, nn.Module):
        return copy.deepcopy(denoiser)
    return new_network(config, dataset, teacher, name or "").requires_grad_(False).eval()


def deviations(config: RunConfig, scorer: Scorer, dataset: Dataset) -> tuple[str, ...]:
    """Return in what a run differs from its protocol; with any, its scores stand in no table of it."""
    protocol = scorer.protocol
    found = []
    if protocol.samples not in (None, config.samples):
        found.append(f"{config.samples:,} samples instead of {protocol.samples:,}")
    if protocol.seeds not in (None, len(config.sampling_seeds)):
        found.append(f"{len(config.sampling_seeds)} sampling seeds instead of {protocol.seeds}")
    if not scorer.basis.verified:
        found.append("not the published Inception weights")
    if dataset.deviates:
        found.append(f"data: {dataset.deviates}")
    return tuple(found)


def _title(name: str, steps: int) -> str:
    return f"{name}, {steps} step{'s' * (steps != 1)}"


def _weights_hash(denoiser: Denoiser) -> str | None:
    return tensors_digest(denoiser.state_dict()) if isinstance(denoiser, nn.Module) else None


def _plane(points: Tensor) -> Tensor:
    """Return the first two coordinates of points ``[..., D]``; of points on a line, a second one of 0."""
    return torch.nn.functional.pad(points, (0, 1))[..., :2] if points.shape[-1] == 1 else points[..., :2]


def count_parameters(denoiser: Denoiser) -> int:
    """Return the number of a network's parameters, 0 for a closed form."""
    return sum(p.numel() for p in denoiser.parameters()) if isinstance(denoiser, nn.Module) else 0


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def loss_table(losses: tuple[LossPoint, ...]) -> str:
    """Return a loss curve as CSV: step, phase (from 1), images, loss."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "phase", "images", "loss"])
    writer.writerows([p.step, p.phase + 1, p.images, repr(p.loss)] for p in losses)
    return text.getvalue()
