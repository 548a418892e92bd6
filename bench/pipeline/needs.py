"""What a run needs that may not be on this machine: all of it at once, each with the command that brings it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tractbench.config.fields import RunConfig
from tractbench.datasets.base import Dataset
from tractbench.diffusion.processes import load_process
from tractbench.errors import ConfigError, TractbenchError
from tractbench.evaluation.protocols import load_protocol
from tractbench.method import Method
from tractbench.teachers.load import teacher_hash

STUDENT_BYTES = 36
"""Bytes for each parameter while training: student, gradient, Adam's two moments, self-teacher, teacher and short part
of the inference average in float32, its long part in float64."""

CHECKPOINT_BYTES = 32
"""Bytes for each parameter in a checkpoint: all of these but the gradient."""

CHECKPOINTS = 3
"""Checkpoints that lie on the disk at once: the last two, and the one that is being written."""


@dataclass(frozen=True)
class Need:
    """Something a run needs.

    Attributes:
        name: what it is.
        present: whether it is here.
        detail: what was found, or what to do.
    """

    name: str
    present: bool
    detail: str


def files_needed(config: RunConfig, dataset: Dataset) -> tuple[Need, ...]:
    """Return data, teacher and Inception weights, here or not; nothing is loaded."""
    process = load_process(config.process, config.grid_steps)

    def teacher() -> str:
        return f"sha256 {teacher_hash(config.teacher, dataset, process)[:12]}"

    return (
        _found(
            f"data {dataset.name}",
            lambda: f"{dataset.training_images:,} training images, sha256 {dataset.fingerprint[:12]}",
        ),
        _found(f"teacher {config.teacher}", teacher),
        *_inception(config),
    )


def check_needs(config: RunConfig, dataset: Dataset) -> None:
    """Raise ConfigError, with a line each, if data or teacher are not on this machine.

    Inception weights are fetched when they are first needed, so they alone stop nothing; they are named with the rest.
    """
    needs = [need for need in files_needed(config, dataset) if not need.present]
    if all(need.name == INCEPTION for need in needs):
        return
    if len(needs) == 1:
        raise ConfigError(needs[0].detail)
    lines = "".join(f"\n  {need.name}: {need.detail}" for need in needs)
    raise ConfigError(f"this run needs {len(needs)} things that are not on this machine:{lines}")


INCEPTION = "Inception weights"


def _found(name: str, look: Callable[[], str]) -> Need:
    try:
        return Need(name, True, look())
    except TractbenchError as error:
        return Need(name, False, str(error))


def _inception(config: RunConfig) -> list[Need]:
    if not load_protocol(config.protocol).inception:
        return []
    from tractbench.evaluation.extractors.inception import URL, choose_weights

    path = choose_weights(None).path
    missing = f"fetched at the first evaluation from {URL}; offline, put it at {path}"
    return [Need(INCEPTION, path.exists(), str(path) if path.exists() else missing)]


def memory_needed(parameters: int, method: Method, device: str) -> Need:
    """Return the memory of weights, averages and optimiser, against what the device has."""
    free = _free_memory(device)
    needed = parameters * (STUDENT_BYTES if method.trains else 4)
    detail = f"{needed / 1e9:.1f} GB of weights and optimiser beside the activations; {free / 1e9:.1f} GB here"
    return Need("memory", free == 0 or needed < free, detail)


def _free_memory(device: str) -> int:
    """Return the bytes that a run could have, 0 if nobody says."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(0).total_memory)
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


def disk_needed(parameters: int, config: RunConfig, store: Path) -> Need:
    """Return the disk space of student and checkpoints, against what the store's disk has."""
    needed = parameters * ((CHECKPOINT_BYTES * CHECKPOINTS + 4) if config.budget else 0) + 50_000_000
    folder = next(path for path in (store.absolute(), *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    return Need("disk", needed < free, f"{needed / 1e9:.1f} GB for results in {store}; {free / 1e9:.1f} GB free there")
