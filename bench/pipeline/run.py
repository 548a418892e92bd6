"""One run, top to bottom: identify, find or make - teacher, student, samples, scores, pictures, record."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from tractbench.config.fields import RunConfig
from tractbench.config.identity import SCORING_VERSION, TRAINING_VERSION
from tractbench.datasets.base import Dataset
from tractbench.diffusion.denoiser import Denoiser
from tractbench.errors import RunFailedError, TractbenchError
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.scorer import Scorer, make_scorer
from tractbench.io.files import write_atomic
from tractbench.io.tensors import tensors_digest
from tractbench.method import Method
from tractbench.pipeline.cell import Cell, identify
from tractbench.pipeline.draw import draw_pictures
from tractbench.pipeline.failures import Ending, first_ending
from tractbench.pipeline.needs import check_needs, check_room
from tractbench.pipeline.runtime import Runtime, StoppingProgress
from tractbench.pipeline.samples import count_evaluations, score_samples
from tractbench.pipeline.student import Student, count_parameters, make_student, teacher_ends
from tractbench.plugins import distribution_hash
from tractbench.progress import Progress
from tractbench.results.record import Metric, Record, RecordedConfig, Seconds
from tractbench.results.store import CONFIG, PICTURE, Store
from tractbench.teachers.load import load_teacher
from tractbench.training.compiling import compiled
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
    group = runtime.group
    with dataset.computing():
        store.require_writable()
        check_needs(config, method, dataset, store.root, runtime.device, runtime.weights)
        cell = identify(config, method, dataset, runtime.weights)

        def find() -> Record | None:
            return group.from_main(lambda: None if runtime.force else store.find(cell.id, config))

        if found := find():
            return Outcome(found, reused=True)
        check_room(config, method, dataset, store.root, runtime.device, progress)
        folder = store.cell_folder(config, cell.id)
        with store.lock_cell(folder) if group.is_main else nullcontext():
            if found := find():  # made while this process waited
                return Outcome(found, reused=True)
            with precision(config.precision, runtime.device):  # as the networks' passes are made
                machine = runtime.lineage()
            stoppable = StoppingProgress(progress, runtime.stop)
            attempt = _Attempt(cell, store, folder, stoppable, runtime, machine)
            return Outcome(attempt.make(), reused=False)


@dataclass(frozen=True)
class _Attempt:
    """A run that is being made, in a folder that is locked; however it ends, its record says so."""

    cell: Cell
    store: Store
    folder: Path
    progress: Progress
    runtime: Runtime
    environment: dict[str, object]

    def make(self) -> Record:
        """Make the run and record its end; rank 0 alone writes."""
        group = self.runtime.group
        if group.is_main:
            write_atomic(self.folder / CONFIG, self.cell.config.model_dump_json(indent=2) + "\n")
            self.store.log(self.folder, f"started: {self.cell.command}")
        try:
            self.runtime.tracker.start(self.folder, self.cell.config.model_dump(mode="json"))
            return self._made()
        except (Exception, KeyboardInterrupt) as error:
            ending = first_ending(error, group, self.runtime.device)
            if group.is_main:
                self._end(ending)
            if ending.rank != group.rank or group.lost(error):
                raise ending.error() from error
            if ending.status == "interrupted" or ending.failure == "error" or isinstance(error, TractbenchError):
                raise
            raise RunFailedError(ending.reason) from error
        finally:
            self.runtime.tracker.close()

    def _end(self, ending: Ending) -> None:
        """Record an end that is none; where nothing can be written, what is raised says more than that."""
        try:
            self.store.log(self.folder, f"{ending.traceback}{ending.status}: {ending.reason}")
            self.store.write(self._record(status=ending.status, failure=ending.failure, reason=ending.reason))
        except Exception as error:
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
            scorer.prepare(runtime.group)  # first: weights that cannot be fetched are missed now, not after training
            ends = teacher_ends(cell, teacher, self.store, self.progress, runtime)
            student = make_student(cell, teacher, ends, self.folder.name, self.store, self.progress, runtime)
            sampling_started = time.perf_counter()
            metrics = score_samples(cell, self._sampled(student.denoiser, runtime), scorer, runtime, self.progress)
            scored = time.perf_counter()

            def finish() -> Record:
                original, sampled = (
                    sampled_in(one, cell.config.precision, runtime.device)
                    for one in (teacher.denoiser, student.denoiser)
                )
                draw_pictures(cell, original, sampled, self.folder, runtime, self.progress)
                steps = student.training.steps
                runtime.tracker.log({f"score/{name}": metric.mean for name, metric in metrics.items()}, steps)
                runtime.tracker.image("samples", self.folder / PICTURE, steps)
                seconds = Seconds(
                    training=student.training.seconds,
                    sampling_and_scoring=scored - sampling_started,
                    total=time.perf_counter() - started,
                )
                record = self._done(student, scorer, metrics, seconds)
                self.store.write(record)  # last, so that a recorded run is a complete one
                self.store.log(self.folder, f"done in {record.seconds.total:.0f} s")
                return record

            return runtime.group.from_main(finish)

    def _sampled(self, denoiser: Denoiser, runtime: Runtime) -> Denoiser:
        """Return a denoiser as samples that are scored are made by it."""
        if runtime.compiling and isinstance(denoiser, nn.Module):
            denoiser = compiled(denoiser)
        return sampled_in(denoiser, self.cell.config.precision, runtime.device)

    def _done(self, student: Student, scorer: Scorer, metrics: dict[str, Metric], seconds: Seconds) -> Record:
        cell, runtime = self.cell, self.runtime
        return self._record(
            status="done",
            metrics=metrics,
            floors=scorer.floors,
            distillation_errors=student.errors,
            nfe_spent=count_evaluations(cell, student.denoiser, runtime),
            parameters=count_parameters(student.denoiser),
            training=student.training,
            seconds=seconds,
            hashes=self._hashes() | {"student": _weights_hash(student.denoiser)},
            basis=scorer.basis.model_dump(mode="json"),
            deviations=deviations(cell.config, scorer, cell.dataset),
        )

    def _record(self, **values: object) -> Record:
        base = {
            "identity": self.cell.id,
            "student": self.cell.student,
            "training_version": TRAINING_VERSION,
            "scoring_version": SCORING_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": RecordedConfig.of(self.cell.config),
            "environment": self.environment,
            "hashes": self._hashes(),
            "command": self.cell.command,
            "folder": self.folder.relative_to(self.store.root).as_posix(),
        }
        return Record.model_validate({**base, **values})

    def _hashes(self) -> dict[str, str | None]:
        hashes = {
            "teacher": self.cell.teacher_hash,
            "data": self.cell.dataset.fingerprint,
            "method_source": distribution_hash(type(self.cell.method)),
            "data_source": distribution_hash(type(self.cell.dataset)),
            "reference": self.cell.core_reference,
        }
        # only of plugins: runs of built-ins count together with those that older releases recorded
        sources = {"process_source": type(self.cell.process), "network_source": self.cell.student_network}
        return hashes | {name: found for name, kind in sources.items() if kind and (found := distribution_hash(kind))}


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
