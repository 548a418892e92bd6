"""From a teacher card to a denoiser."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from tractbench.datasets.base import Dataset, NetworkPreset
from tractbench.diffusion.denoiser import PARAMETERISATIONS, Denoiser, SigmaDenoiser, on_device
from tractbench.diffusion.preconditioning import SCHEMES, iddpm_levels
from tractbench.diffusion.processes import VE, Process, process_of
from tractbench.errors import ConfigError
from tractbench.io.canonical import canonical
from tractbench.nets.build import build_network, network_class
from tractbench.plugins import plugin_hashes
from tractbench.teachers.card import TeacherCard, load_network, read_card, read_weights

EXACT = "exact"
"""The teacher's name on data whose optimal denoiser is a closed form."""

ROUNDED = 1e-5
"""How far, relatively, noise levels in a checkpoint are off for being float32."""


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

    def to(self, device: str) -> Teacher:
        """Return the same teacher with its weights on a device."""
        return replace(self, denoiser=on_device(self.denoiser, device))


def wrap(
    network: nn.Module, parameterisation: str, process: Process, settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """Make a network a denoiser; ``settings`` are those of a preconditioning.

    Convolutions are laid out channels last: the published networks are faster so (tests/benchmarks/networks.py).

    Raises:
        ConfigError: there is no such parameterisation, or it is not one of the process.
    """
    if parameterisation not in process.parameterisations:
        raise ConfigError(
            f"parameterisation '{parameterisation}' is for process '{process_of(parameterisation).name}', not "
            f"'{process.name}'; choose another teacher or process"
        )
    network = network.to(memory_format=torch.channels_last)
    if parameterisation in PARAMETERISATIONS:
        return PARAMETERISATIONS[parameterisation](network, process)
    return SigmaDenoiser(network, process, SCHEMES[parameterisation](**(settings or {})))


def card_process(card: TeacherCard, process: Process) -> Process:
    """Return a process within the noise levels that a teacher knows, as EDM's sampler has it.

    Its least level is the larger one of the process's and the network's, its largest the smaller one, and all are
    rounded to iDDPM's where the network knows no others (Karras et al. 2022, appendix C.3).
    """
    if not isinstance(process, VE) or card.process != process.name or card.parameterisation not in SCHEMES:
        return process
    scheme = SCHEMES[card.parameterisation](**card.settings)
    low, high = max(process.sigma_min, scheme.sigma_min), min(process.sigma_max, scheme.sigma_max)
    rounding: Literal["", "iddpm"] = "iddpm" if card.parameterisation == "iddpm" else ""
    return replace(process, sigma_min=low, sigma_max=high, rounding=rounding, network_sigma_min=scheme.sigma_min)


def teacher_process(name_or_path: str, process: Process) -> Process:
    """Return a process within the noise levels that a teacher knows, by the teacher's name or its card's path.

    Raises:
        ConfigError: there is no such teacher, or fewer levels are known to it than the process has.
    """
    if name_or_path == EXACT:
        return process
    card, _ = read_card(name_or_path, TeacherCard)
    known = card_process(card, process)
    if isinstance(known, VE) and known.rounding:
        levels = known.sigma(torch.arange(known.steps + 1, dtype=torch.float64) / known.steps)
        if not bool((levels.diff() > 0).all()):
            raise ConfigError(
                f"grid_steps {known.steps}: teacher '{card.name}' knows fewer noise levels; take fewer, such as 40"
            )
    return known


def load_card(card: TeacherCard, folder: Path, process: Process) -> nn.Module:
    """Return a card's network as a denoiser of a process, without gradients.

    Raises:
        ConfigError: it was made for other noise levels than those of the process.
        DamagedFileError: its weights are not what the card promises.
    """
    tensors = read_weights(card, folder)
    settings: dict[str, Any] = dict(card.settings)
    if card.parameterisation == "iddpm" and "u" in tensors:
        settings["u"] = levels = tensors.pop("u").double()
        usual = iddpm_levels()
        if levels.shape != usual.shape or not torch.allclose(levels, usual, rtol=ROUNDED, atol=ROUNDED):
            raise ConfigError(f"teacher '{card.name}' has noise levels that are not iDDPM's; they are not known here")
    network = load_network(card, folder, tensors)
    tensors.clear()  # the network holds them; a second reference would keep what another layout replaces
    denoiser = wrap(network, card.parameterisation, process, settings)
    if isinstance(denoiser, SigmaDenoiser):
        scheme = denoiser.scheme
        low, high = scheme.sigma_min * (1 - ROUNDED), scheme.sigma_max * (1 + ROUNDED)
        if process.sigma_min < low or process.sigma_max > high:
            raise ConfigError(
                f"teacher '{card.name}' knows noise levels {scheme.sigma_min:.3g} to {scheme.sigma_max:.3g}, process "
                f"'{process.name}' has {process.sigma_min:.3g} to {process.sigma_max:.3g}; choose another teacher"
            )
    return denoiser.requires_grad_(False).eval()


def new_denoiser(preset: NetworkPreset, process: Process, random: torch.Generator) -> nn.Module:
    """Return a denoiser of some architecture with weights drawn from a generator."""
    return wrap(build_network(preset.network, preset.arguments, random), preset.parameterisation, process)


def teacher_hash(name_or_path: str, dataset: Dataset, process: Process) -> str:
    """Return a teacher's hash from its card, or from the data it is the closed form of; no weights are read.

    It is the sha256 of the weights' sha256, which loading checks, and of all that turns them into a denoiser.

    Raises:
        ConfigError: there is no such teacher, or it was made for another data set or process.
    """
    if name_or_path == EXACT:
        parts: object = [EXACT, process.name, dataset.fingerprint]
    else:
        card, _ = _card_for(name_or_path, dataset, process)
        fields = card.model_dump(include={"network", "arguments", "parameterisation", "process", "sha256"})
        plugin = plugin_hashes(network_class(card.network))
        parts = fields | ({"settings": card.settings} if card.settings else {}) | ({"plugin": plugin} if plugin else {})
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def load_teacher(name_or_path: str, dataset: Dataset, process: Process) -> Teacher:
    """Load a teacher by its name or its card's path, or take the data's closed form by the name ``exact``.

    Raises:
        ConfigError: there is no such teacher, or it was made for another data set or process.
        DamagedFileError: its weights are not what the card promises.
    """
    digest = teacher_hash(name_or_path, dataset, process)
    if name_or_path == EXACT:
        return Teacher(EXACT, dataset.exact_denoiser(process), process, digest)
    card, folder = _card_for(name_or_path, dataset, process)
    denoiser = load_card(card, folder, process)
    try:
        with torch.no_grad():
            denoiser(torch.zeros(2, *dataset.shape), torch.full((2,), 0.5, dtype=torch.float64), _some_labels(dataset))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"teacher '{card.name}' does not fit images of shape {dataset.shape}: {reason}") from error
    return Teacher(card.name, denoiser, process, digest)


def _card_for(name_or_path: str, dataset: Dataset, process: Process) -> tuple[TeacherCard, Path]:
    """Return a teacher's card and the folder it lies in, if it is for the data and the process."""
    card, folder = read_card(name_or_path, TeacherCard)
    family = dataset.name.partition(":")[0]  # variants of a data set have their teachers in common
    if card.dataset not in (dataset.name, family) or card.process != process.name:
        raise ConfigError(
            f"teacher '{card.name}' is for data set '{card.dataset}' and process '{card.process}', "
            f"not '{dataset.name}' and '{process.name}'; choose another with --teacher"
        )
    return card, folder


def _some_labels(dataset: Dataset) -> torch.Tensor | None:
    return torch.zeros(2, dtype=torch.int64) if dataset.classes else None
