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
from pathlib import Path

import torch
from torch import Tensor, nn

from tractbench.config import GRID_STEPS, RunConfig, identity, student_id
from tractbench.datasets.base import Dataset
from tractbench.errors import DamagedFileError, InterruptedRunError, RunFailedError
from tractbench.evaluation.metrics import Scorer
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.sampling import evaluations_per_image, sample
from tractbench.files import sha256_file, write_atomic
from tractbench.method import Method
from tractbench.progress import Progress, Task
from tractbench.results.grid import save_grid
from tractbench.results.provenance import command_line, environment
from tractbench.results.record import Metric, Record, Seconds, Training
from tractbench.results.store import CHECKPOINT, STUDENT, Store
from tractbench.teachers.load import Teacher, load_teacher
from tractbench.training.checkpoint import load_checkpoint, save_checkpoint
from tractbench.training.distill import Distillation, Distilled, LossPoint, distill

GRID_COLUMNS = 6
GRID_IMAGES = 36


@dataclass(frozen=True)
class Runtime:
    """What a run may depend on without its numbers depending on it.

    Attributes:
        device: where networks run.
        sample_batch: images held together while sampling; None for one chunk.
        force: run again even if the store has the result.
        stop: asked between steps; True ends the run early, keeping what is done.
    """

    device: str = "cpu"
    sample_batch: int | None = None
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
    protocol = load_protocol(config.protocol)
    teacher = load_teacher(config.teacher, config.dataset, config.process)
    scorer = Scorer(dataset, protocol, config.chunk)
    student = student_id(config, method, teacher.hash, dataset.fingerprint)
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
        if self.runtime.force:
            for name in (STUDENT, CHECKPOINT, "record.json"):
                (self.folder / name).unlink(missing_ok=True)
        write_atomic(self.folder / "config.json", self.config.model_dump_json(indent=2) + "\n")
        base = {
            "identity": self.cell,
            "student": self.student,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": self.config,
            "environment": environment(self.runtime.device),
            "command": command_line(),
            "folder": self.folder.name,
        }
        hashes = {
            "teacher": self.teacher.hash,
            "data": self.dataset.fingerprint,
            "reference": self.scorer.reference_hash,
        }
        try:
            network, training = self._student() if self.method.trains else (self._teacher_network(), Training())
            sampling_started = time.perf_counter()
            metrics = self._score(network)
        except RunFailedError as error:
            failed = Record.model_validate({**base, "status": "failed", "reason": str(error), "hashes": hashes})
            self.store.append(failed)
            raise
        sampled = time.perf_counter()
        self._draw_grid(network)
        student_file = self.folder / STUDENT
        record = Record.model_validate(
            {
                **base,
                "status": "done",
                "metrics": metrics,
                "floors": self.scorer.floors,
                "nfe_spent": evaluations_per_image(network, self.teacher.process, self.dataset.shape, self.config.nfe),
                "parameters": sum(p.numel() for p in network.parameters()),
                "training": training,
                "seconds": Seconds(
                    training=training.seconds,
                    sampling_and_scoring=sampled - sampling_started,
                    total=time.perf_counter() - started,
                ),
                "hashes": hashes | {"student": sha256_file(student_file) if student_file.exists() else None},
            }
        )
        self.store.append(record)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return record

    def _teacher_network(self) -> nn.Module:
        return copy.deepcopy(self.teacher.denoiser).to(self.runtime.device)

    def _student(self) -> tuple[nn.Module, Training]:
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
            self.teacher.denoiser,
            self.dataset.decode(self.dataset.train),
            flips=self.dataset.flips,
            device=self.runtime.device,
        )
        checkpoint = self.folder / CHECKPOINT
        if not checkpoint.exists() and not self.runtime.force:
            for other in self.store.student_files(self.student, CHECKPOINT)[:1]:
                shutil.copyfile(other, checkpoint)
        distilled = distill(run, self.student, checkpoint, self.progress, self.runtime.stop)
        self._save_student(distilled)
        return distilled.student, Training(steps=distilled.steps, images=distilled.images, seconds=distilled.seconds)

    def _save_student(self, distilled: Distilled) -> None:
        header = {
            "student": self.student,
            "steps": distilled.steps,
            "images": distilled.images,
            "seconds": distilled.seconds,
        }
        write_atomic(self.folder / "loss.csv", loss_table(distilled.losses))
        save_checkpoint(self.folder / STUDENT, distilled.student.state_dict(), header)

    def _load_student(self, path: Path) -> tuple[nn.Module, Training] | None:
        tensors, header = load_checkpoint(path, "delete it to train the student again")
        if header["student"] != self.student:
            return None
        network = self._teacher_network()
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise DamagedFileError(f"{path} does not fit its network; delete it to train again") from error
        reused_from = None
        if path.parent != self.folder:
            reused_from = path.parent.name
            for name in (STUDENT, "loss.csv"):
                _link(path.parent / name, self.folder / name)
            self.progress.message(f"using the student of {reused_from}")
        spent = {key: header[key] for key in ("steps", "images", "seconds")}
        return network, Training(**spent, reused_from=reused_from)

    def _sample(self, network: nn.Module, seed: int, count: int, steps: int, task: Task | None) -> Iterator[Tensor]:
        config = self.config
        images = sample(
            network,
            self.teacher.process,
            self.dataset.shape,
            seed,
            count,
            steps,
            chunk=config.chunk,
            batch=self.runtime.sample_batch,
            clip=config.clip_sample,
            device=self.runtime.device,
            task=task,
        )
        for batch in images:
            if self.runtime.stop():
                kept = "; kept: the trained student" if self.method.trains else "; nothing was written"
                raise InterruptedRunError(f"stopped while sampling{kept}; the same command goes on from there")
            if not bool(torch.isfinite(batch).all()):
                raise RunFailedError(f"sampling seed {seed} gave images that are not finite")
            yield batch

    def _score(self, network: nn.Module) -> dict[str, Metric]:
        config = self.config
        per_seed: list[dict[str, float]] = []
        with self.progress.task("sampling and scoring", config.samples * len(config.sampling_seeds), "image") as task:
            for seed in config.sampling_seeds:
                batches = self._sample(network, seed, config.samples, config.nfe, task)
                per_seed.append(self.scorer.score(self.dataset.quantise(batch) for batch in batches))
                first = self.scorer.protocol.metrics[0]
                task.advance(0, f"seed {seed}  {first} {per_seed[-1][first]:.4g}")
        return {name: Metric.of([scores[name] for scores in per_seed]) for name in self.scorer.protocol.metrics}

    def _draw_grid(self, network: nn.Module) -> None:
        """Draw the teacher in all its steps, the teacher in NFE steps and the student, from the same noise."""
        config, count, seed = self.config, min(GRID_IMAGES, self.config.chunk), self.config.sampling_seeds[0]
        full = config.schedule[0] if config.schedule else max(GRID_STEPS, config.nfe)
        teacher = self._teacher_network()
        jobs = {_panel("teacher", full): (teacher, full), _panel("teacher", config.nfe): (teacher, config.nfe)}
        if self.method.trains:
            jobs[_panel(config.method, config.nfe)] = (network, config.nfe)
        panels = {}
        with self.progress.task("drawing samples", len(jobs), "panel") as task:
            for title, (denoiser, steps) in jobs.items():
                small = sample(
                    denoiser,
                    self.teacher.process,
                    self.dataset.shape,
                    seed,
                    count,
                    steps,
                    chunk=count,
                    clip=config.clip_sample,
                    device=self.runtime.device,
                )
                panels[title] = self.dataset.decode(self.dataset.quantise(torch.cat(list(small))))
                task.advance(1, title)
        save_grid(self.folder / "samples.png", panels, GRID_COLUMNS)


def _panel(name: str, steps: int) -> str:
    return f"{name}, {steps} step{'s' * (steps != 1)}"


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
