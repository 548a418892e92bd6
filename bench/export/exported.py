"""What is exported of a run: its network, its sampler as numbers, and that both make the run's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import ConfigError, RunFailedError
from tractbench.evaluation.sampling import fresh_noise, prior_labels, prior_noise
from tractbench.export.loop import run_sampler
from tractbench.export.recipe import Recipe, inner_network, make_recipe
from tractbench.nets.build import Argument, network_class
from tractbench.pipeline.cell import Cell
from tractbench.pipeline.rescore import Finished, load_finished
from tractbench.plugins import distribution_hash
from tractbench.results.record import Record
from tractbench.results.ship import stripped
from tractbench.teachers.card import TeacherCard, read_card
from tractbench.teachers.load import EXACT
from tractbench.training.numerics import precision
from tractbench.training.phases import plan_phases

TOLERANCE = 1e-4
"""How far an exported sampler's images, in [-1, 1], may be from the run's own."""

CHECKED = 4
"""How many images are compared before anything is written."""


@dataclass(frozen=True)
class Exported:
    """All that an exported folder is made of.

    Attributes:
        record: the run's record.
        cell: the run.
        folder: the run's folder, with its pictures.
        network: its network alone, on the CPU.
        network_name: what the network is registered as.
        arguments: its constructor's arguments.
        recipe: the sampler around it.
        teacher: its teacher's card; None where the teacher is a closed form.
        difference: the largest difference between the exported sampler's images and the run's own.
    """

    record: Record
    cell: Cell
    folder: Path
    network: nn.Module
    network_name: str
    arguments: Mapping[str, Argument]
    recipe: Recipe
    teacher: TeacherCard | None
    difference: float

    @property
    def built_in(self) -> bool:
        """Whether the network is one of this package's."""
        return distribution_hash(type(self.network)) is None

    @property
    def name(self) -> str:
        """What the run is called: its method, data, tier, NFE and seed."""
        return Path(self.record.folder).name.rpartition("-")[0]

    def config(self) -> dict[str, Any]:
        """Return network and sampler as JSON values, for those who read the weights with their own code."""
        arguments = {name: list(v) if isinstance(v, tuple) else v for name, v in self.arguments.items()}
        network = {"network": self.network_name, "arguments": arguments, "parameters": parameters(self.network)}
        return {**network, "levels": self.cell.dataset.levels, "sampler": self.recipe.as_json()}


def parameters(network: nn.Module) -> int:
    """Return the number of a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def exported(run: Path, device: str = "cpu") -> Exported:
    """Return what is to be exported of a finished run, after comparing a few images with those of its own sampler.

    Args:
        run: the run's folder.
        device: where the images are compared.

    Raises:
        ConfigError: the run samples a closed form, or a student that cannot be taken apart; its teacher or data are not
            here.
        DamagedFileError: its record or weights cannot be read.
        RunFailedError: the run did not end, or the images differ.
    """
    finished = load_finished(run, device)
    record, cell, denoiser = finished.record, finished.cell, finished.denoiser
    if record.status != "done":
        raise ConfigError(f"run {record.identity[:12]} has no result ({record.status}); type its command again first")
    network = inner_network(denoiser)
    name, arguments = _architecture(finished)
    if type(network) is not network_class(name):
        raise ConfigError(
            f"the student's network is a {type(network).__name__}, not '{name}' as its teacher's card says"
        )
    dataset = cell.dataset
    with dataset.computing(), precision("fp32", device):
        recipe = make_recipe(denoiser, cell.process, cell.sampler, dataset.shape, classes=dataset.classes,
                             clip=cell.config.clip_sample, two_times=cell.method.two_times)  # fmt: skip
        difference = _difference(finished, recipe, network, device)
    teacher = None if cell.config.teacher == EXACT else read_card(cell.config.teacher, TeacherCard)[0]
    return Exported(stripped(record), cell, run, network.cpu(), name, arguments, recipe, teacher, difference)


def _architecture(finished: Finished) -> tuple[str, Mapping[str, Argument]]:
    """Return the name and the arguments of a finished run's network."""
    cell = finished.cell
    phases = cell.method.phases(cell.config.schedule) if cell.method.trains else ()
    own = plan_phases(cell.config, phases)[-1].network if phases else None
    if own is not None:
        preset = cell.dataset.network(own, cell.config.process)
        return preset.network, preset.arguments
    card, _ = read_card(cell.config.teacher, TeacherCard)
    return card.network, card.arguments


@torch.no_grad()
def _difference(finished: Finished, recipe: Recipe, network: nn.Module, device: str) -> float:
    """Return the largest difference between images of the recipe and of the run's own sampler from the same noise."""
    cell, shape, images = finished.cell, recipe.shape, range(CHECKED)
    noise = prior_noise(cell.process, shape, 0, images).to(device)
    labels = prior_labels(recipe.classes, 0, images).to(device) if recipe.classes else None
    fresh = [one.to(device) for one in fresh_noise(cell.sampler, shape, 0, images)]
    own: Tensor = sample_ode(finished.denoiser, cell.process, noise, cell.sampler, labels, fresh=fresh,
                             two_times=cell.method.two_times, clip=cell.config.clip_sample)  # fmt: skip
    found = run_sampler(network, recipe.evaluations, noise, labels, fresh)
    difference = float((own - found).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(own.abs().max())):
        raise RunFailedError(
            f"the exported sampler's images differ from the run's by {difference:.2g}, more than {TOLERANCE:g}: "
            "what is around the network is no sum of the state and its output; such a student cannot be exported"
        )
    return difference
