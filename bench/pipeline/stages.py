"""A run's stages, memory and alternatives, from operation counts and a device's speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tractbench.config.fields import RunConfig
from tractbench.datasets.base import Dataset
from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler
from tractbench.errors import TractbenchError
from tractbench.evaluation.ends import ENDS
from tractbench.evaluation.extractors.base import load_extractor
from tractbench.evaluation.extractors.inception import OPERATIONS
from tractbench.evaluation.protocols import load_protocol
from tractbench.method import Method
from tractbench.pipeline.counts import Counts, PhaseWork
from tractbench.pipeline.devices import Device
from tractbench.pipeline.needs import state_bytes
from tractbench.training.numerics import Precision

Basis = Literal["counted", "measured"]
Kind = Literal["evaluation", "training", "scoring", "features"]


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: what it does.
        kind: what is done to each image.
        images: how many images it handles.
        operations: of all of them; 0 where a closed form has no products to count.
        seconds_per_image: on one device.
        basis: whether that follows from the operations or was timed on this machine.
        devices: that share the images.
    """

    name: str
    kind: Kind
    images: int
    operations: int
    seconds_per_image: float
    basis: Basis = "counted"
    devices: int = 1

    @property
    def hours(self) -> float:
        """Projected hours, the images shared without loss."""
        return self.images * self.seconds_per_image / self.devices / 3600


@dataclass(frozen=True)
class Memory:
    """An estimate of the memory of one device.

    Attributes:
        state: bytes of weights, averages and optimiser.
        activations: bytes that a training step keeps for its backward pass.
        images: how many images that is for.
    """

    state: int
    activations: int
    images: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.state + self.activations


@dataclass(frozen=True)
class Change:
    """What another setting would change; None where nobody knows before it is measured."""

    name: str
    hours: float | None
    memory: int | None
    note: str = ""


def count_stages(
    config: RunConfig,
    method: Method,
    dataset: Dataset,
    process: Process,
    teacher: Counts,
    phases: Sequence[PhaseWork],
    machine: Device,
    number: int,
) -> list[Stage]:
    """Return the stages, by operations alone."""
    full = config.schedule[0] if config.schedule else config.grid_steps
    protocol = load_protocol(config.protocol)
    student = phases[-1].student if phases else teacher
    images = config.samples * len(config.sampling_seeds)
    speed = machine.speed(config.precision)

    def stage(name: str, kind: Kind, images: int, operations: int, speed: float = speed) -> Stage:
        return Stage(name, kind, images, operations, operations / images / speed, devices=number)

    ends = ENDS * Sampler.equal(full, method.teacher_sampler()).evaluations * teacher.forward
    found = [stage(f"teacher in {full} steps", "evaluation", ENDS, ends)]
    if phases:
        trained = sum(phase.images for phase in phases)
        found.append(stage("training", "training", trained, sum(phase.images * phase.operations for phase in phases)))
    drawn = images * method.sampler(config.nfe, process).evaluations * student.forward
    found.append(stage("sampling", "evaluation", images, drawn))
    if protocol.inception:
        scored = images + _train_count(dataset)
        fp32 = machine.speed("fp32") if "fp32" in machine.peak else speed
        found.append(stage("Inception features", "scoring", scored, scored * OPERATIONS, fp32))
        for name in protocol.spaces:
            operations = load_extractor(name, dataset).operations
            found += [stage(f"{name} features", "features", scored, scored * operations, fp32)] * bool(operations)
    return found


def _train_count(dataset: Dataset) -> int:
    try:
        return dataset.training_images
    except TractbenchError:
        return dataset.train_count


def estimate_memory(
    config: RunConfig, method: Method, networks: Sequence[Counts], precision: Precision, images: int
) -> Memory:
    """Estimate one device's memory; while nothing is trained, that of the activations is not counted."""
    largest = max(networks, key=lambda network: network.parameters)
    bf16 = precision == "bf16"
    state = state_bytes(largest.parameters, method) + (2 * largest.parameters if bf16 else 0)
    kept = max(network.activations_bf16 if bf16 else network.activations for network in networks)
    return Memory(state, kept * images if method.trains else 0, images if method.trains else 0)


def alternatives(
    config: RunConfig,
    method: Method,
    networks: Sequence[Counts],
    machine: Device,
    stages: Sequence[Stage],
    memory: Memory,
) -> tuple[Change, ...]:
    """Return what precision, compilation and micro-batches would change."""
    total = sum(stage.hours for stage in stages)
    found = []
    for name in ("tf32", "bf16"):
        if name != config.precision and name in machine.peak and config.precision == "fp32":
            faster = machine.peak[config.precision] / machine.peak[name]
            hours = sum(s.hours * (1 if s.kind in ("scoring", "features") else faster) for s in stages)
            other = estimate_memory(config, method, networks, name, memory.images)
            note = "if its peak is reached to the same share" if faster < 1 else "slower here"
            found.append(Change(name, hours, other.total, note))
    found.append(Change("compile", None, None, "fuses what lies between the products; measure it: tractbench profile"))
    if memory.images > 1:
        each = memory.activations / memory.images
        fitting = min((0.9e9 * machine.memory - memory.state) / each, memory.images / 2)
        images = 1 << math.floor(math.log2(max(1.0, fitting)))
        note = "" if fitting >= 1 else f"more than {machine.memory:.0f} GB hold"
        found.append(Change(f"micro-batches of {images}", total, round(memory.state + each * images), note))
    return tuple(found)
