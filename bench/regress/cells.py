"""The tiny runs of a method, and what of one is compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.scorer import make_scorer
from tractbench.io.tensors import tensors_digest
from tractbench.method import Method
from tractbench.pipeline.cell import identify
from tractbench.pipeline.runtime import Runtime
from tractbench.pipeline.samples import score_samples
from tractbench.pipeline.student import make_student, teacher_ends
from tractbench.progress import Progress
from tractbench.registry import load_dataset
from tractbench.results.store import Store
from tractbench.teachers.load import load_teacher

Settings = Mapping[str, object]

DATA: Mapping[str, Settings] = {"digits": {"grid_steps": 64}, "mixture2d:conditional": {"grid_steps": 16}}
"""Data sets of the tiny runs - images with a trained teacher that are clipped, points of classes with an exact one -
and what their VP runs have."""

COMMON: Settings = {"tier": "smoke", "samples": 100, "sampling_seeds": [0]}
TRAINING: Settings = {"budget": 960, "batch": 32, "lr": 1e-3}
"""Thirty steps, at a rate at which they move the student well beyond rounding."""

ERROR = "distillation error"


@dataclass(frozen=True)
class Measured:
    """What a tiny run came to.

    Attributes:
        weights: sha256 of the student's weights; None where nothing is trained.
        values: by name, the distance to the teacher's full sampler after each phase, and every score.
    """

    weights: str | None
    values: dict[str, float]


def standard_cells(method: type[Method]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield names and settings of a method's tiny runs, in two evaluations or, where it has no such run, in one.

    Raises:
        ConfigError: its own schedule cannot be run on any of the data.
    """
    complaint: ConfigError | None = None
    found = 0
    for data, vp in DATA.items():
        for process in method.processes:
            if process not in load_dataset(data).workload.processes:
                continue
            settings: dict[str, object] = {"method": method.name, "dataset": data, "process": process, **COMMON}
            settings |= {**(vp if process == "vp" else {}), **(TRAINING if method.trains else {})}
            for nfe in (2, 1):
                try:
                    resolve(settings | {"nfe": nfe})
                except ConfigError as error:
                    complaint = complaint or error
                    continue
                found += 1
                yield f"{method.name}/{data}/{process}", settings | {"nfe": nfe}
                break
    if not found:
        raise ConfigError(
            f"method '{method.name}' has no tiny run ({complaint or 'its processes are on no data set here'}); "
            "write a cell with settings that it can have into the baseline"
        )


def threads(settings: Settings) -> int:
    """Return how many threads a run computes on here: its data set's own number, or all."""
    _, _, dataset = resolve(settings)
    return dataset.workload.threads or torch.get_num_threads()


def measure(settings: Settings, folder: Path) -> Measured:
    """Make a tiny run and return what it came to.

    Args:
        settings: as the command line's flags and ``--set`` have them.
        folder: where it keeps what it needs between its parts. Runs that share it compute a teacher's samples once.

    Raises:
        ConfigError: the settings are impossible, or something that they name is not here.
        RunFailedError: the run diverged.
    """
    config, method, dataset = resolve(settings)
    with dataset.computing():
        cell = identify(config, method, dataset)
        store, progress, runtime = Store(folder, create=True), Progress(), Runtime(force=True)
        store.make()
        teacher = load_teacher(config.teacher, dataset, cell.process)
        ends = teacher_ends(cell, teacher, store, progress, runtime)
        student = make_student(cell, teacher, ends, "regress", store, progress, runtime)
        scorer = make_scorer(dataset, load_protocol(config.protocol), config.chunk, config.samples)
        metrics = score_samples(cell, student.denoiser, scorer, runtime, progress)
    values = {f"{ERROR}, phase {one.phase}": one.error for one in student.errors}
    values |= {name: metric.mean for name, metric in metrics.items()}
    denoiser = student.denoiser
    if not (method.trains and isinstance(denoiser, nn.Module)):
        return Measured(None, values)
    return Measured(tensors_digest(denoiser.state_dict()), values)
