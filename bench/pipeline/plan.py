"""What a run will cost before it starts: what is missing, how much memory and disk it takes, how long each stage is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tractbench.config.fields import RunConfig
from tractbench.datasets.base import Dataset
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import PROCESSES, Process
from tractbench.diffusion.solvers import sample_ode, solver_steps
from tractbench.errors import TractbenchError
from tractbench.evaluation.ends import ENDS
from tractbench.evaluation.protocols import Protocol, load_protocol
from tractbench.method import Method
from tractbench.nets.build import build_network
from tractbench.progress import Progress, Task
from tractbench.seeds import generator
from tractbench.teachers.load import load_teacher, new_denoiser, wrap
from tractbench.teachers.published import published_teachers
from tractbench.training.distillation import Distillation

ENOUGH = 0.25
"""Seconds after which a measurement is believed; smaller batches are doubled."""

TRIALS = 2

STUDENT_BYTES = 36
"""Bytes for each parameter while training: student, gradient, Adam's two moments, self-teacher, teacher and short part
of the inference average in float32, its long part in float64."""

CHECKPOINT_BYTES = 32
"""Bytes for each parameter in a checkpoint: all of these but the gradient."""


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


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: what it does.
        images: how many images it handles.
        seconds_per_image: measured on this machine.
    """

    name: str
    images: int
    seconds_per_image: float

    @property
    def hours(self) -> float:
        """Projected hours on this machine."""
        return self.images * self.seconds_per_image / 3600


@dataclass(frozen=True)
class Plan:
    """What a run needs and takes.

    Attributes:
        needs: data, teacher, weights, memory and disk.
        stages: in the order of the run.
        parameters: of the network.
        device: what the speeds were measured on.
        devices: how many of them there are; a run uses one.
    """

    needs: tuple[Need, ...]
    stages: tuple[Stage, ...]
    parameters: int
    device: str
    devices: int

    @property
    def ready(self) -> bool:
        """Whether the run can start."""
        return all(need.present for need in self.needs)


def make_plan(
    config: RunConfig, method: Method, dataset: Dataset, store: Path, device: str, progress: Progress
) -> Plan:
    """Look for what a run needs and measure how fast this machine does each of its stages.

    Where the teacher is not here, a network of its architecture with random weights is timed.

    Args:
        config: the run.
        method: its method.
        dataset: its data set.
        store: folder of results.
        device: cpu or cuda.
        progress: draws the calibration.
    """
    protocol, free = load_protocol(config.protocol), _free_memory(device)
    needs = [_data(dataset), _teacher(config, dataset), *_weights(protocol)]
    process = PROCESSES[config.process](config.grid_steps)
    denoiser = _network(config, dataset, process, device)
    parameters = sum(p.numel() for p in denoiser.parameters()) if isinstance(denoiser, nn.Module) else 0
    with progress.task("measuring this machine", 3 if method.trains else 2, "stage") as task:
        stages = _stages(config, method, dataset, process, denoiser, protocol, device, task)
    needs += [_memory(parameters, method, free), _disk(parameters, config, store)]
    count = torch.cuda.device_count() if device.startswith("cuda") else 1
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
    return Plan(tuple(needs), tuple(stages), parameters, name, count)


def _found(name: str, look: Callable[[], str]) -> Need:
    try:
        return Need(name, True, look())
    except TractbenchError as error:
        return Need(name, False, str(error))


def _data(dataset: Dataset) -> Need:
    return _found(
        f"data {dataset.name}", lambda: f"{len(dataset.train):,} training images, sha256 {dataset.fingerprint[:12]}"
    )


def _teacher(config: RunConfig, dataset: Dataset) -> Need:
    def look() -> str:
        return f"sha256 {load_teacher(config.teacher, dataset, config.process, config.grid_steps).hash[:12]}"

    return _found(f"teacher {config.teacher}", look)


def _weights(protocol: Protocol) -> list[Need]:
    if not protocol.inception:
        return []
    from tractbench.evaluation.inception import URL, choose_weights

    path = choose_weights(None).path
    missing = f"fetched at the first evaluation from {URL}; offline, put it at {path}"
    return [Need("Inception weights", path.exists(), str(path) if path.exists() else missing)]


def _network(config: RunConfig, dataset: Dataset, process: Process, device: str) -> Denoiser:
    """Return the teacher, or a network of its architecture with random weights."""
    try:
        denoiser = load_teacher(config.teacher, dataset, config.process, config.grid_steps).denoiser
    except TractbenchError:
        random = generator("plan")
        card = published_teachers().get(config.teacher)
        if card is None:
            recipe = dataset.recipe(config.process + "-smoke" * config.teacher.endswith("-smoke"))
            denoiser = new_denoiser(dataset.network(recipe.network, config.process), process, random)
        else:
            denoiser = wrap(build_network(card.network, card.arguments, random), card.parameterisation, process)
    return denoiser.to(device).requires_grad_(False).eval() if isinstance(denoiser, nn.Module) else denoiser


def _per_image(work: Callable[[int], Callable[[], None]], most: int, device: str) -> float:
    """Return the seconds that a piece of work takes for an image.

    Args:
        work: makes the work for so many images.
        most: images that the run itself would handle together.
        device: cpu or cuda.
    """
    batch = min(2, most)
    while True:
        do = work(batch)
        do()
        best = float("inf")
        for _ in range(TRIALS):
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            started = time.perf_counter()
            do()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        if best >= ENOUGH or batch >= most:
            return best / batch
        batch = min(2 * batch, most)


def _stages(
    config: RunConfig,
    method: Method,
    dataset: Dataset,
    process: Process,
    denoiser: Denoiser,
    protocol: Protocol,
    device: str,
    task: Task,
) -> list[Stage]:
    steps = solver_steps(method.sampler(), config.nfe)
    full = config.schedule[0] if config.schedule else config.grid_steps

    def evaluation(batch: int) -> Callable[[], None]:
        noise = torch.randn((batch, *dataset.shape), generator=generator("plan", "noise")) * process.prior_std
        noise = noise.to(device)
        labels = torch.zeros(batch, dtype=torch.int64, device=device) if dataset.classes else None

        @torch.no_grad()
        def one_step() -> None:
            sample_ode(denoiser, process, noise, 1, labels, clip=config.clip_sample)

        return one_step

    each = _per_image(evaluation, config.chunk, device)
    task.advance(1)
    ends = min(ENDS, config.samples)
    stages = [Stage(f"teacher in {full} steps", ends, each * evaluations(method.teacher_sampler(), full))]
    if method.trains:
        stages.append(Stage("training", config.budget, _training(config, method, dataset, process, denoiser, device)))
        task.advance(1)
    images = config.samples * len(config.sampling_seeds)
    stages.append(Stage("sampling", images, each * evaluations(method.sampler(), steps)))
    if protocol.inception:
        scored = images + _train_count(dataset)
        stages.append(Stage("Inception features", scored, _scoring(dataset, protocol, device)))
    task.advance(1)
    return stages


def evaluations(solver: str, steps: int) -> int:
    """Return the denoiser evaluations of a solver: Heun takes two in each step but the last."""
    return 2 * steps - 1 if solver == "heun" else steps


def _train_count(dataset: Dataset) -> int:
    try:
        return len(dataset.train)
    except TractbenchError:
        return dataset.train_count


def _training(
    config: RunConfig, method: Method, dataset: Dataset, process: Process, teacher: Denoiser, device: str
) -> float:
    """Return the seconds that an image of a training step takes."""
    phases = max(1, len(config.schedule) - 1)

    def new_network(name: str) -> nn.Module:
        return new_denoiser(dataset.network(name, config.process), process, generator("plan", name))

    def steps(batch: int) -> Callable[[], None]:
        small = config.model_copy(update={"batch": batch, "budget": batch * (TRIALS + 2) * phases})
        images = torch.zeros((batch, *dataset.shape), dtype=torch.float32)
        labels = torch.zeros(batch, dtype=torch.int64) if dataset.classes else None
        return Distillation(
            small, method, process, teacher, images, labels=labels, new_network=new_network, device=device
        ).train_step

    return _per_image(steps, config.batch, device)


def _scoring(dataset: Dataset, protocol: Protocol, device: str) -> float:
    """Return the seconds that the Inception network takes for an image; its weights do not matter for that."""
    from tractbench.evaluation.inception import Inception
    from tractbench.evaluation.reference import BATCH

    network = Inception.untrained(device)

    def features(batch: int) -> Callable[[], None]:
        images = torch.zeros((batch, *dataset.shape), dtype=torch.uint8)

        def extract() -> None:
            network(images, protocol.resize)

        return extract

    return _per_image(features, BATCH, device)


def _free_memory(device: str) -> int:
    """Return the bytes that a run could have, 0 if nobody says."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(0).total_memory)
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


def _memory(parameters: int, method: Method, free: int) -> Need:
    needed = parameters * (STUDENT_BYTES if method.trains else 4)
    detail = f"{needed / 1e9:.1f} GB of weights and optimiser beside the activations; {free / 1e9:.1f} GB here"
    return Need("memory", free == 0 or needed < free, detail)


def _disk(parameters: int, config: RunConfig, store: Path) -> Need:
    needed = parameters * ((CHECKPOINT_BYTES * 2 + 4) if config.budget else 0) + 50_000_000
    folder = next(path for path in (store.absolute(), *store.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    return Need("disk", needed < free, f"{needed / 1e9:.1f} GB for results in {store}; {free / 1e9:.1f} GB free there")
