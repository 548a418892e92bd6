"""A finished run read again: its denoiser, and its samples to be scored under another protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from tractbench.config.fields import RunConfig
from tractbench.diffusion.denoiser import Denoiser, on_device
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.sample_set import SampleSet
from tractbench.io.tensors import tensors_digest
from tractbench.pipeline.cell import Cell, identify
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.samples import draw_samples
from tractbench.pipeline.student import load_student
from tractbench.registry import load_dataset, load_method
from tractbench.results.migrate import parse_record
from tractbench.results.record import Record
from tractbench.results.store import RECORD, STUDENT, student_file
from tractbench.teachers.load import Teacher, load_teacher
from tractbench.training.numerics import sampled_in


@dataclass(frozen=True)
class Finished:
    """A finished run: its record, what it is called now, its teacher, and what it samples, on the device."""

    record: Record
    cell: Cell
    teacher: Teacher
    denoiser: Denoiser


def load_finished(folder: Path, device: str) -> Finished:
    """Return a finished run as its folder holds it.

    Args:
        folder: the run's folder, with its record.
        device: where the network is to run.

    Raises:
        DamagedFileError: the record or the weights cannot be read, or do not belong together.
        ConfigError: the run's method, data or teacher is not on this machine, or its settings are another release's.
    """
    path = folder / RECORD
    try:
        record = parse_record(path.read_bytes(), path)
    except OSError as error:
        raise DamagedFileError(f"{path} is not a run's record; give the folder of a finished run") from error
    cell = _cell(record)
    teacher = load_teacher(cell.config.teacher, cell.dataset, cell.process).to(device)
    denoiser: Denoiser = teacher.denoiser
    if cell.method.trains:
        weights = student_file(folder, record.student, STUDENT)
        denoiser = on_device(load_student(weights, record.student, cell, teacher).denoiser, device)
        if isinstance(denoiser, nn.Module) and tensors_digest(denoiser.state_dict()) != record.hashes.get("student"):
            raise DamagedFileError(f"{weights} was trained again since this run was scored; run it again with --force")
    return Finished(record, cell, teacher, denoiser)


def run_samples(folder: Path, device: str, samples: int | None = None) -> tuple[SampleSet, RunConfig]:
    """Return the samples of a finished run as a set to be scored again, one sampling seed after the other.

    Args:
        folder: the run's folder, with its record.
        device: where the network runs.
        samples: images for each sampling seed instead of the run's.

    Raises:
        DamagedFileError, ConfigError: as :func:`load_finished`.
    """
    finished = load_finished(folder, device)
    record, cell = finished.record, finished.cell
    if samples is not None:
        cell = replace(cell, config=cell.config.model_copy(update={"samples": samples}))
    runtime, sampled = Runtime(device), sampled_in(finished.denoiser, cell.config.precision, device)

    def read() -> Iterator[Tensor]:
        for seed in cell.config.sampling_seeds:
            yield from draw_samples(cell, sampled, seed, runtime)

    total = cell.config.samples * len(cell.config.sampling_seeds)
    return SampleSet(f"run {record.identity[:12]}", total, cell.dataset.shape, True, read), cell.config


def _cell(record: Record) -> Cell:
    try:
        config = RunConfig.model_validate(record.config.as_written())
        method = load_method(config.method).model_validate(config.options)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"run {record.identity[:12]} has settings that this release does not know "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}); run it again"
        ) from error
    return identify(config, method, load_dataset(config.dataset))
