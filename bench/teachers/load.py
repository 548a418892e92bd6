"""From a teacher card to a denoiser."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from tractbench.cards import TeacherCard, load_network, read_card
from tractbench.config import canonical
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VP, Process
from tractbench.errors import ConfigError, nearest_name

PARAMETERISATIONS: Mapping[str, Callable[[nn.Module, Process], nn.Module]] = {"x0": X0Denoiser}
PROCESSES: Mapping[str, Callable[[], Process]] = {"vp": VP}


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher.

    Attributes:
        card: where it comes from.
        denoiser: the network as a denoiser, without gradients.
        process: the process it denoises.
        hash: sha256 of the weights' hash and of all that turns them into a denoiser.
    """

    card: TeacherCard
    denoiser: nn.Module
    process: Process
    hash: str


def wrap(network: nn.Module, parameterisation: str, process: Process) -> nn.Module:
    """Make a network a denoiser."""
    if parameterisation not in PARAMETERISATIONS:
        raise ConfigError(
            f"unknown parameterisation '{parameterisation}'{nearest_name(parameterisation, PARAMETERISATIONS)}"
        )
    return PARAMETERISATIONS[parameterisation](network, process)


def load_teacher(name_or_path: str, dataset: str, process_name: str) -> Teacher:
    """Load a teacher by its shipped name or its card's path.

    Raises:
        ConfigError: it was made for another data set or process.
        DamagedFileError: its weights are not what the card promises.
    """
    card, folder = read_card(name_or_path, TeacherCard)
    if (card.dataset, card.process) != (dataset, process_name):
        raise ConfigError(
            f"teacher '{card.name}' is for data set '{card.dataset}' and process '{card.process}', "
            f"not '{dataset}' and '{process_name}'; choose another with --teacher"
        )
    process = PROCESSES[process_name]()
    denoiser = wrap(load_network(card, folder), card.parameterisation, process)
    parts = card.model_dump(include={"network", "arguments", "parameterisation", "process", "sha256"})
    return Teacher(card, denoiser, process, hashlib.sha256(canonical(parts).encode()).hexdigest())
