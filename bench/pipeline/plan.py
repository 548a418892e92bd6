"""What a run will cost before it starts: what is missing, how much memory and disk it takes, how long each stage is.

Times follow from operation counts and the speed of a device. What this machine does in a moment is timed instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tractbench.config.fields import RunConfig
from tractbench.datasets.base import Dataset
from tractbench.diffusion.processes import load_process
from tractbench.diffusion.sampler import Sampler
from tractbench.evaluation.reference import BATCH
from tractbench.method import Method
from tractbench.pipeline.counts import count, count_distances, count_phases, teacher_preset
from tractbench.pipeline.devices import Device, devices, parse_machine, this_machine
from tractbench.pipeline.measure import Subject, measure_stages
from tractbench.pipeline.needs import Need, disk_needed, files_needed, free_memory, memory_needed
from tractbench.pipeline.stages import Change, Memory, Stage, alternatives, count_stages, estimate_memory
from tractbench.progress import Progress
from tractbench.training.numerics import Precision

MOMENT = 0.9
"""Seconds of network passes that a plan may take to time what is small."""

MINUTE = 54.0
"""Seconds of them when measurements are asked for."""


@dataclass(frozen=True)
class Plan:
    """What a run needs and takes.

    Attributes:
        needs: data, teacher, weights, memory and disk.
        stages: in the order of the run.
        parameters: of the largest network.
        device: what it is planned for.
        devices: how many of them.
        memory: of one of them.
        changes: by other settings.
    """

    needs: tuple[Need, ...]
    stages: tuple[Stage, ...]
    parameters: int
    device: Device
    devices: int
    memory: Memory
    changes: tuple[Change, ...]

    @property
    def ready(self) -> bool:
        """Whether the run can start here."""
        return not any(need.state == "MISSING" for need in self.needs)

    @property
    def hours(self) -> float:
        """Hours from beginning to end."""
        return sum(stage.hours for stage in self.stages)

    @property
    def device_hours(self) -> float:
        """The same times the number of devices."""
        return self.hours * self.devices


def make_plan(
    config: RunConfig,
    method: Method,
    dataset: Dataset,
    store: Path,
    device: str,
    progress: Progress,
    *,
    on: str | None = None,
    measure: bool = False,
) -> Plan:
    """Look for what a run needs and project how long it takes; nothing is loaded.

    Args:
        config: the run.
        method: its method.
        dataset: its data set.
        store: folder of results.
        device: cpu or cuda.
        progress: draws a measurement that is asked for.
        on: a machine of the table, such as ``8xh100``; None for this one.
        measure: time this machine for up to a minute; else for a moment.

    Raises:
        ConfigError: there is no such machine, or it has no units for the run's precision.
    """
    name, number = parse_machine(on) if on else ("", 1)
    here = name in ("", "cpu")
    device = "cpu" if name == "cpu" else device
    preset = teacher_preset(config, dataset)
    process = load_process(config.process, config.grid_steps)
    phases = count_phases(config, method, dataset, process, preset)
    free = free_memory(device)
    machine = this_machine(device, free, *{config.precision, *_lower(device)}) if here else devices()[name]
    stages = count_stages(config, method, dataset, process, count(preset), phases, machine, number)
    if here:
        subject = Subject(config, method, dataset, process, preset, device)
        with progress.task("measuring this machine", 1, "run") as task:
            stages = _timed(subject, stages, MINUTE if measure else MOMENT)
            task.advance(1)
    beside = count_distances(method, dataset.shape).activations
    networks = [
        replace(one, activations=one.activations + beside, activations_bf16=one.activations_bf16 + beside)
        for one in (count(preset), *(phase.student for phase in phases))
    ]
    parameters = max(network.parameters for network in networks)
    needs = (
        *files_needed(config, method, dataset),
        memory_needed(parameters, method, int(machine.memory * 1e9)),
        disk_needed(parameters, config, store),
    )
    memory = estimate_memory(config, method, networks, config.precision, -(-config.batch // number))
    changes = alternatives(config, method, networks, machine, stages, memory)
    return Plan(needs, tuple(stages), parameters, machine, number, memory, changes)


def counted_seconds(config: RunConfig, method: Method, dataset: Dataset, machine: Device) -> tuple[float, float]:
    """Return the seconds of training and of all else on one device, by operation counts alone; nothing is run."""
    preset = teacher_preset(config, dataset)
    process = load_process(config.process, config.grid_steps)
    phases = count_phases(config, method, dataset, process, preset)
    stages = count_stages(config, method, dataset, process, count(preset), phases, machine, 1)
    training = sum(3600 * stage.hours for stage in stages if stage.kind == "training")
    return training, sum(3600 * stage.hours for stage in stages) - training


def _lower(device: str) -> tuple[Precision, ...]:
    return ("tf32", "bf16") if device.startswith("cuda") and torch.cuda.get_device_capability()[0] >= 8 else ("bf16",)


def _timed(subject: Subject, stages: Sequence[Stage], limit: float) -> list[Stage]:
    """Replace what this machine can time by what it takes; the rest goes at the speed of an evaluation, if known."""
    config, method = subject.config, subject.method
    full = config.schedule[0] if config.schedule else config.grid_steps
    asked = {
        stages[0].name: Sampler.equal(full, method.teacher_sampler()).evaluations,
        "sampling": method.sampler(config.nfe, subject.process).evaluations,
    }
    together = {"evaluation": config.chunk, "training": config.batch, "scoring": BATCH, "features": BATCH}
    estimates = {s.kind: (s.seconds_per_image / asked.get(s.name, 1), together[s.kind]) for s in stages}
    found = measure_stages(subject, estimates, limit)
    timed = []
    for stage in stages:
        if stage.kind in found:
            each = found[stage.kind] * asked.get(stage.name, 1)
            stage = replace(stage, seconds_per_image=each, basis="measured")
        elif "evaluation" in found:
            slower = found["evaluation"] / estimates["evaluation"][0]
            stage = replace(stage, seconds_per_image=stage.seconds_per_image * slower)
        timed.append(stage)
    return timed
