"""From a teacher card to a denoiser."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from tractbench.cards import TeacherCard, load_network, read_card
from tractbench.config import canonical
from tractbench.datasets.base import Dataset, NetworkPreset
from tractbench.diffusion.denoiser import PARAMETERISATIONS, Denoiser
from tractbench.diffusion.processes import PROCESSES, Process
from tractbench.errors import ConfigError, nearest_name
from tractbench.nets.build import build_network

EXACT = "exact"
"""The teacher's name on data whose optimal denoiser is a closed form."""


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher.

    Attributes:
        name: the card's name, or ``exact``.
        denoiser: the network as a denoiser, without gradients, or a closed form.
        process: the process it denoises.
        hash: sha256 of the weights' hash and of all that turns them into a denoiser.
    """

    name: str
    denoiser: Denoiser
    process: Process
    hash: str


def wrap(network: nn.Module, parameterisation: str, process: Process) -> nn.Module:
    """Make a network a denoiser."""
    if parameterisation not in PARAMETERISATIONS:
        raise ConfigError(
            f"unknown parameterisation '{parameterisation}'{nearest_name(parameterisation, PARAMETERISATIONS)}"
        )
    return PARAMETERISATIONS[parameterisation](network, process)


def new_denoiser(preset: NetworkPreset, process: Process, random: torch.Generator) -> nn.Module:
    """Return a denoiser of some architecture with weights drawn from a generator."""
    return wrap(build_network(preset.network, preset.arguments, random), preset.parameterisation, process)


def load_teacher(name_or_path: str, dataset: Dataset, process_name: str, grid_steps: int) -> Teacher:
    """Load a teacher by its shipped name or its card's path, or take the data's closed form by the name ``exact``.

    Raises:
        ConfigError: it was made for another data set or process.
        DamagedFileError: its weights are not what the card promises.
    """
    process = PROCESSES[process_name](grid_steps)
    if name_or_path == EXACT:
        digest = hashlib.sha256(canonical([EXACT, process_name, dataset.fingerprint]).encode()).hexdigest()
        return Teacher(EXACT, dataset.exact_denoiser(process), process, digest)
    card, folder = read_card(name_or_path, TeacherCard)
    if (card.dataset, card.process) != (dataset.name, process_name):
        raise ConfigError(
            f"teacher '{card.name}' is for data set '{card.dataset}' and process '{card.process}', "
            f"not '{dataset.name}' and '{process_name}'; choose another with --teacher"
        )
    denoiser = wrap(load_network(card, folder), card.parameterisation, process)
    try:
        with torch.no_grad():
            denoiser(torch.zeros(2, *dataset.shape), torch.full((2,), 0.5, dtype=torch.float64), _some_labels(dataset))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"teacher '{card.name}' does not fit images of shape {dataset.shape}: {reason}") from error
    parts = card.model_dump(include={"network", "arguments", "parameterisation", "process", "sha256"})
    return Teacher(card.name, denoiser, process, hashlib.sha256(canonical(parts).encode()).hexdigest())


def _some_labels(dataset: Dataset) -> torch.Tensor | None:
    return torch.zeros(2, dtype=torch.int64) if dataset.classes else None
