"""What a configuration is called, from cards and manifests alone, before anything is loaded or computed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from tractbench.config.command import given_settings, run_command
from tractbench.config.fields import RunConfig
from tractbench.config.identity import cell_id, student_id
from tractbench.datasets.base import Dataset
from tractbench.diffusion.processes import Process, load_process
from tractbench.diffusion.sampler import Sampler
from tractbench.errors import ConfigError
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.scorer import reference_hash
from tractbench.method import Method
from tractbench.nets.build import network_class
from tractbench.teachers.load import teacher_hash, teacher_process


@dataclass(frozen=True)
class Cell:
    """One run to be made or found.

    Attributes:
        config: what decides its numbers.
        method: its method.
        dataset: its data set.
        process: its diffusion process.
        weights: Inception weights instead of the published ones.
        teacher_hash: hash of its teacher.
        reference_hash: hash of what its samples are scored against.
        student: the student's name, a sha256.
        id: its own name, a sha256.
    """

    config: RunConfig
    method: Method
    dataset: Dataset
    process: Process
    weights: Path | None
    teacher_hash: str
    reference_hash: str
    student: str
    id: str

    @property
    def full_steps(self) -> int:
        """Steps of the teacher's own sampler, which the student replaces."""
        return self.config.schedule[0] if self.config.schedule else self.config.grid_steps

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler that spends the run's NFE."""
        return self.method.sampler(self.config.nfe, self.process)

    @property
    def student_network(self) -> type[nn.Module] | None:
        """The class of the network that the student is moved into; None where it keeps its teacher's."""
        name = self.config.student
        return network_class(self.dataset.network(name, self.config.process).network) if name is not None else None

    @cached_property
    def core_reference(self) -> str:
        """Hash of what the protocol's own scores are against, whatever feature spaces a run is scored in besides."""
        protocol = load_protocol(self.config.protocol)
        if protocol.core is protocol:
            return self.reference_hash
        return reference_hash(self.dataset, protocol.core, samples=self.config.samples, weights=self.weights)

    @cached_property
    def command(self) -> str:
        """The command that makes it."""
        weights = f" --weights {shlex.quote(str(self.weights.absolute()))}" if self.weights else ""
        return run_command(given_settings(self.config)) + weights


def identify(config: RunConfig, method: Method, dataset: Dataset, weights: Path | None = None) -> Cell:
    """Name a run.

    Raises:
        ConfigError: the data or the teacher's card are not on this machine, or do not go together; or the method asks
            for noise levels that the teacher does not know.
    """
    process = teacher_process(config.teacher, load_process(config.process, config.grid_steps))
    if method.continuous and not process.continuous:
        raise ConfigError(
            f"method '{method.name}' trains at any noise level, teacher '{config.teacher}' knows some only; choose "
            "another teacher, or a method of time steps, such as cd or tract_edm"
        )
    teacher = teacher_hash(config.teacher, dataset, process)
    protocol = load_protocol(config.protocol)
    reference = reference_hash(dataset, protocol, samples=config.samples, weights=weights)
    student = student_id(config, method, dataset, process, teacher)
    cell = cell_id(student, config, method, dataset, reference)
    return Cell(config, method, dataset, process, weights, teacher, reference, student, cell)
