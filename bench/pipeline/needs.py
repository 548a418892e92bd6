"""What a run needs that may not be on this machine: all of it at once, each with the command that brings it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from tractbench.config.fields import RunConfig
from tractbench.datasets.base import Dataset, NetworkPreset
from tractbench.diffusion.processes import load_process
from tractbench.errors import ConfigError, TractbenchError
from tractbench.evaluation.extractors.base import extractor_class
from tractbench.evaluation.protocols import load_protocol
from tractbench.method import Method
from tractbench.nets.build import meta_network
from tractbench.pipeline.counts import teacher_preset
from tractbench.progress import Progress
from tractbench.teachers.load import teacher_hash
from tractbench.training.phases import plan_phases

STUDENT_BYTES = 36
"""Bytes for each parameter while training: student, gradient, Adam's two moments, self-teacher, teacher and short part
of the inference average in float32, its long part in float64."""

CHECKPOINT_BYTES = 32
"""Bytes for each parameter in a checkpoint: all of these but the gradient."""

CHECKPOINTS = 3
"""Checkpoints that lie on the disk at once: the last two, and the one that is being written."""

RESULTS = 50_000_000
"""Bytes that records, pictures and what the cache keeps for a run take at most."""

Presence = Literal["yes", "MISSING", "tight", "fetched"]
"""``tight``: it may not be enough; ``fetched``: it is missing, and the run fetches it itself."""


@dataclass(frozen=True)
class Need:
    """Something a run needs.

    Attributes:
        name: what it is.
        state: whether it is here; only what is MISSING stops a run.
        detail: what was found, or what to do.
    """

    name: str
    state: Presence
    detail: str

    @property
    def present(self) -> bool:
        """Whether nothing has to be done about it."""
        return self.state == "yes"


def files_needed(config: RunConfig, method: Method, dataset: Dataset, weights: Path | None = None) -> tuple[Need, ...]:
    """Return data, teacher and weights of published networks, here or not; nothing is loaded.

    Args:
        config: the run.
        method: its method.
        dataset: its data set.
        weights: Inception weights instead of the published ones.
    """
    process = load_process(config.process, config.grid_steps)

    def teacher() -> str:
        return f"sha256 {teacher_hash(config.teacher, dataset, process)[:12]}"

    return (
        _found(
            f"data {dataset.name}",
            lambda: f"{dataset.training_images:,} training images, sha256 {dataset.fingerprint[:12]}",
        ),
        _found(f"teacher {config.teacher}", teacher),
        *_distances(method, dataset),
        *_inception(config, weights),
        *_spaces(config),
    )


def room_needed(config: RunConfig, method: Method, dataset: Dataset, store: Path, device: str) -> tuple[Need, ...]:
    """Return the memory and the disk that a run takes for certain, from its architectures alone.

    Args:
        config: the run.
        method: its method.
        dataset: its data set.
        store: folder of results.
        device: cpu or cuda.
    """
    parameters = largest_network(config, method, dataset)
    return memory_needed(parameters, method, free_memory(device)), disk_needed(parameters, config, store)


def largest_network(config: RunConfig, method: Method, dataset: Dataset) -> int:
    """Return the parameters of the largest network of a run."""
    presets = [teacher_preset(config, dataset)]
    if method.trains:
        named = {plan.network for plan in plan_phases(config, method.phases(config.schedule)) if plan.network}
        presets += [dataset.network(name, config.process) for name in sorted(named)]
    return max(_parameters(preset) for preset in presets)


def _parameters(preset: NetworkPreset | None) -> int:
    if preset is None:
        return 0
    return sum(p.numel() for p in meta_network(preset.network, preset.arguments).parameters())


def check_needs(
    config: RunConfig, method: Method, dataset: Dataset, store: Path, device: str, weights: Path | None = None
) -> None:
    """Raise ConfigError, with a line for everything that is missing, if data or teacher are not on this machine.

    Memory, disk and Inception weights alone stop nothing here, as the run may be done already; they are named with the
    rest. What is short of them stops a run that starts: :func:`check_room`.

    Args:
        config: the run.
        method: its method.
        dataset: its data set.
        store: folder of results.
        device: cpu or cuda.
        weights: Inception weights instead of the published ones.
    """
    files = files_needed(config, method, dataset, weights)
    if any(need.state == "MISSING" for need in files):
        try:
            room = room_needed(config, method, dataset, store, device)
        except TractbenchError:  # without the teacher's card its architecture may be unknown; the card is named
            room = ()
        _refuse([need for need in (*files, *room) if not need.present])


def check_room(
    config: RunConfig, method: Method, dataset: Dataset, store: Path, device: str, progress: Progress
) -> None:
    """Say what of memory and disk may not be enough.

    Raises:
        ConfigError: weights and optimiser are larger than the memory, or one checkpoint than the free disk.
    """
    needs = [need for need in room_needed(config, method, dataset, store, device) if not need.present]
    if any(need.state == "MISSING" for need in needs):
        _refuse(needs)
    for need in needs:
        progress.message(f"{need.name} may not be enough: {need.detail}")


def _refuse(needs: list[Need]) -> None:
    if len(needs) == 1:
        raise ConfigError(needs[0].detail)
    lines = "".join(f"\n  {need.name}: {need.detail}" for need in needs)
    raise ConfigError(f"this run needs {len(needs)} things that are not on this machine:{lines}")


INCEPTION = "Inception weights"


def _found(name: str, look: Callable[[], str]) -> Need:
    try:
        return Need(name, "yes", look())
    except TractbenchError as error:
        return Need(name, "MISSING", str(error))


def _inception(config: RunConfig, weights: Path | None) -> list[Need]:
    if not load_protocol(config.protocol).inception:
        return []
    from tractbench.evaluation.extractors.inception import URL, choose_weights

    if weights is not None:
        return [_found(INCEPTION, lambda: f"{choose_weights(weights).path}")]
    path = choose_weights(None).path
    if path.exists():
        return [Need(INCEPTION, "yes", str(path))]
    return [Need(INCEPTION, "fetched", f"fetched at the first evaluation from {URL}; offline, put it at {path}")]


def _distances(method: Method, dataset: Dataset) -> list[Need]:
    """Return the networks that the method's loss goes through."""
    missing = {name: distance.missing() for name, distance in method.distances(dataset.shape).items()}
    return [Need(f"{name} weights", "fetched" if lack else "yes", lack or "") for name, lack in missing.items()]


def _spaces(config: RunConfig) -> list[Need]:
    """Return the weights of the extractors that the protocol adds, of those that have any to be fetched."""
    found = []
    for name in load_protocol(config.protocol).spaces:
        need = _found(f"{name} weights", partial(_missing, name))
        if need.detail:
            found.append(Need(need.name, "fetched", need.detail) if need.present else need)
    return found


def _missing(name: str) -> str:
    return extractor_class(name).missing() or ""


def state_bytes(parameters: int, method: Method) -> int:
    """Return the bytes of weights, averages and optimiser."""
    return parameters * (STUDENT_BYTES if method.trains else 4)


def memory_needed(parameters: int, method: Method, free: int) -> Need:
    """Return the memory of weights, averages and optimiser, against what the device has.

    Args:
        parameters: of the network.
        method: the method.
        free: bytes that a run could have, 0 if nobody says.
    """
    needed = state_bytes(parameters, method)
    detail = f"{needed / 1e9:.1f} GB of weights and optimiser beside the activations; {free / 1e9:.1f} GB here"
    if free and needed > free:
        return Need("memory", "MISSING", f"{detail}; choose a device with more, or a smaller network (--tier smoke)")
    return Need("memory", "yes", detail)


def free_memory(device: str) -> int:
    """Return the bytes that a run could have, 0 if nobody says."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(0).total_memory)
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


def disk_needed(parameters: int, config: RunConfig, store: Path) -> Need:
    """Return the disk space of student and checkpoints, against what the store's disk has.

    It is MISSING if not one checkpoint would fit, and tight if not all that lie there at once would.
    """
    one = parameters * CHECKPOINT_BYTES if config.budget else 0
    needed = parameters * ((CHECKPOINT_BYTES * CHECKPOINTS + 4) if config.budget else 0) + RESULTS
    folder = next(path for path in (store.absolute(), *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{needed / 1e9:.1f} GB for results in {store}; {free / 1e9:.1f} GB free there"
    if free > needed:
        return Need("disk", "yes", detail)
    remedy = f"{detail}; delete what is not needed, or choose another disk with --runs"
    return Need("disk", "tight" if free > one else "MISSING", remedy)
