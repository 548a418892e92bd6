"""One run, top to bottom: identify, find or make - teacher, student, samples, scores, pictures, record."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from torch import nn

from tractbench.config.fields import RunConfig
from tractbench.config.identity import SCORING_VERSION, TRAINING_VERSION
from tractbench.datasets.base import Dataset
from tractbench.diffusion.denoiser import Denoiser
from tractbench.errors import InterruptedRunError, RunFailedError, TractbenchError
from tractbench.evaluation.metrics import Scorer, make_scorer
from tractbench.evaluation.protocols import load_protocol
from tractbench.io.files import write_atomic
from tractbench.io.tensors import tensors_digest
from tractbench.method import Method
from tractbench.pipeline.cell import Cell, identify
from tractbench.pipeline.draw import draw_pictures
from tractbench.pipeline.failures import failure_kind, failure_reason
from tractbench.pipeline.needs import check_needs, check_room
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.samples import count_evaluations, score_samples
from tractbench.pipeline.student import count_parameters, make_student, teacher_ends
from tractbench.progress import Progress
from tractbench.registry import distribution_hash
from tractbench.results.provenance import environment
from tractbench.results.record import Failure, Record, RecordedConfig, Seconds
from tractbench.results.store import PICTURE, Store
from tractbench.teachers.load import load_teacher
from tractbench.training.numerics import precision, sampled_in


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
        ConfigError, StoreError: something that the run needs is not there; nothing was run.
        RunFailedError, DamagedFileError, DownloadError: the run failed; its record says why.
        InterruptedRunError: the run was stopped; the message says what is kept.
    """
    with dataset.computing():
        store.require_writable()
        check_needs(config, method, dataset, store.root, runtime.device, runtime.weights)
        cell = identify(config, method, dataset, runtime.weights)
        if not runtime.force and (found := store.find(cell.id, config)):
            return Outcome(found, reused=True)
        check_room(config, method, dataset, store.root, runtime.device, progress)
        folder = store.cell_folder(config, cell.id)
        with store.lock_cell(folder):
            if not runtime.force and (found := store.find(cell.id, config)):  # made while this process waited
                return Outcome(found, reused=True)
            return Outcome(_Attempt(cell, store, folder, progress, runtime).make(), reused=False)


@dataclass(frozen=True)
class _Attempt:
    """A run that is being made, in a folder that is locked; however it ends, its record says so."""

    cell: Cell
    store: Store
    folder: Path
    progress: Progress
    runtime: Runtime

    def make(self) -> Record:
        """Make the run and record its end."""
        write_atomic(self.folder / "config.json", self.cell.config.model_dump_json(indent=2) + "\n")
        self.store.log(self.folder, f"started: {self.cell.command}")
        try:
            self.runtime.tracker.start(self.folder, self.cell.config.model_dump(mode="json"))
            record = self._made()
        except (InterruptedRunError, KeyboardInterrupt) as error:
            self._end("interrupted", None, str(error) or "stopped at once")
            raise
        except Exception as error:
            kind = failure_kind(error)
            reason = failure_reason(error, kind, self.runtime.device)
            if not isinstance(error, TractbenchError):
                self.store.log(self.folder, traceback.format_exc())
            self._end("failed", kind, reason)
            if kind == "error" or isinstance(error, TractbenchError):
                raise
            raise RunFailedError(reason) from error
        finally:
            self.runtime.tracker.close()
        self.store.write(record)  # last, so that a recorded run is a complete one
        self.store.log(self.folder, f"done in {record.seconds.total:.0f} s")
        return record

    def _end(self, status: Literal["failed", "interrupted"], kind: Failure | None, reason: str) -> None:
        """Record an end that is none; where nothing can be written, what is raised says more than that."""
        try:
            self.store.write(self._record(status=status, failure=kind, reason=reason))
        except TractbenchError as error:
            self.progress.message(f"the end of this run could not be recorded: {error}")

    def _made(self) -> Record:
        cell, runtime, dataset = self.cell, self.runtime, self.cell.dataset
        started = time.perf_counter()
        with precision("fp32", runtime.device):  # networks' passes say for themselves if they are in another
            teacher = load_teacher(cell.config.teacher, dataset, cell.process).to(runtime.device)
            scorer = make_scorer(
                dataset,
                load_protocol(cell.config.protocol),
                cell.config.chunk,
                cell.config.samples,
                device=runtime.device,
                progress=self.progress,
                weights=cell.weights,
            )
            ends = teacher_ends(cell, teacher, self.store, self.progress, runtime)
            student = make_student(cell, teacher, ends, self.folder.name, self.store, self.progress, runtime)
            sampling_started = time.perf_counter()
            sampled = sampled_in(student.denoiser, cell.config.precision, runtime.device)
            metrics = score_samples(cell, sampled, scorer, runtime, self.progress)
            scored = time.perf_counter()
            original = sampled_in(teacher.denoiser, cell.config.precision, runtime.device)
            draw_pictures(cell, original, sampled, self.folder, runtime, self.progress)
        steps = student.training.steps
        runtime.tracker.log({f"score/{name}": metric.mean for name, metric in metrics.items()}, steps)
        runtime.tracker.image("samples", self.folder / PICTURE, steps)
        return self._record(
            status="done",
            metrics=metrics,
            floors=scorer.floors,
            distillation_errors=student.errors,
            nfe_spent=count_evaluations(cell, student.denoiser, runtime),
            parameters=count_parameters(student.denoiser),
            training=student.training,
            seconds=Seconds(
                training=student.training.seconds,
                sampling_and_scoring=scored - sampling_started,
                total=time.perf_counter() - started,
            ),
            hashes=self._hashes() | {"student": _weights_hash(student.denoiser)},
            basis=scorer.basis.model_dump(mode="json"),
            deviations=deviations(cell.config, scorer, dataset),
        )

    def _record(self, **values: object) -> Record:
        base = {
            "identity": self.cell.id,
            "student": self.cell.student,
            "training_version": TRAINING_VERSION,
            "scoring_version": SCORING_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": RecordedConfig.of(self.cell.config),
            "environment": environment(self.runtime.device),
            "hashes": self._hashes(),
            "command": self.cell.command,
            "folder": self.folder.relative_to(self.store.root).as_posix(),
        }
        return Record.model_validate({**base, **values})

    def _hashes(self) -> dict[str, str | None]:
        return {
            "teacher": self.cell.teacher_hash,
            "data": self.cell.dataset.fingerprint,
            "method_source": distribution_hash(type(self.cell.method)),
            "data_source": distribution_hash(type(self.cell.dataset)),
            "reference": self.cell.reference_hash,
        }


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


def _weights_hash(denoiser: Denoiser) -> str | None:
    return tensors_digest(denoiser.state_dict()) if isinstance(denoiser, nn.Module) else None
