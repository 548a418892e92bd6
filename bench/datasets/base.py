"""What the engine needs of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from tractbench.datasets.additions import extended
from tractbench.datasets.formats.prepared import content_sha256
from tractbench.datasets.workload import (
    ClassifierRecipe,
    NetworkTable,
    Settings,
    TeacherRecipe,
    Workload,
    load_workload,
)
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.errors import ConfigError, nearest_name
from tractbench.io.canonical import canonical
from tractbench.io.files import file_name
from tractbench.nets.architectures import Architecture
from tractbench.nets.build import Argument, network_class
from tractbench.plugins import plugin_hashes

if TYPE_CHECKING:
    from tractbench.datasets.formats.files import FileDataset

FULL = "full"
"""The recipes of teachers that are no trial."""


@dataclass(frozen=True)
class NetworkPreset:
    """A denoiser's architecture, whole.

    Attributes:
        network: name of the network.
        arguments: its constructor's arguments.
        parameterisation: how the network's output becomes x0.
    """

    network: str
    arguments: Mapping[str, Argument]
    parameterisation: str

    @property
    def key(self) -> dict[str, object]:
        """All that decides the network, as JSON values: part of the names of students that start from it."""
        arguments = {name: list(v) if isinstance(v, tuple) else v for name, v in self.arguments.items()}
        key: dict[str, object] = {
            "network": self.network,
            "arguments": arguments,
            "parameterisation": self.parameterisation,
        }
        plugin = plugin_hashes(network_class(self.network))
        return key | ({"plugin": plugin} if plugin else {})


class Distribution(Protocol):
    """A distribution of points ``[N, D, 1, 1]`` that is known in closed form.

    Attributes:
        mean: ``[D]``, float64.
        covariance: ``[D, D]``, float64.
    """

    @property
    def mean(self) -> Tensor:
        """Its mean ``[D]``."""

    @property
    def covariance(self) -> Tensor:
        """Its covariance ``[D, D]``."""

    def draw(self, count: int, *names: str | int) -> Tensor:
        """Draw points ``[count, D, 1, 1]``, float32, from a generator named by ``names``."""

    def density(self, points: Tensor) -> Tensor:
        """Return the density ``[N]`` at points ``[N, D]``, float64."""


class Dataset:
    """Images with a fixed split and a grey-level grid; how runs on them are set up says its workload.

    Attributes:
        name: what ``--dataset`` takes.
        summary: one line for listings.
        shape: (C, H, W), H = W.
        levels: grey levels an image can have; 256 for 8-bit images.
        classes: number of classes used for conditioning; 0 for none.
        flips: whether training images are mirrored at random.
        clips: whether predicted images may be clipped to [-1, 1]; data without bounds may not.
        train_count: training images that there are, where they need not be on this machine.
        workload_file: TOML file of its workload. A plugin's data set names its own, or overrides ``own_workload``.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    shape: ClassVar[tuple[int, int, int]]
    levels: ClassVar[int] = 256
    classes: ClassVar[int] = 0
    flips: ClassVar[bool] = False
    clips: ClassVar[bool] = True
    train_count: ClassVar[int] = 0
    workload_file: ClassVar[Path | None] = None

    @property
    def workload(self) -> Workload:
        """How runs on it are set up: tiers, teachers, networks, those among them that plugins add."""
        return extended(self.own_workload, self.name)[0]

    @property
    def own_workload(self) -> Workload:
        """What it says itself of how runs on it are set up."""
        if self.workload_file is None:
            raise ConfigError(f"data set '{self.name}' has no workload; set its class's workload_file to a TOML file")
        return load_workload(self.workload_file)

    @cached_property
    def train(self) -> Tensor:
        """Training images ``[N, C, H, W]``, uint8 grey levels; teachers, students and references use these."""
        raise NotImplementedError

    @cached_property
    def held_out(self) -> Tensor:
        """Images that nothing is trained on, ``[N, C, H, W]``, uint8 grey levels."""
        raise NotImplementedError

    @property
    def train_labels(self) -> Tensor | None:
        """Classes of the training images ``[N]``, None if runs are not conditional."""
        return None

    @property
    def training_images(self) -> int:
        """How many training images there are on this machine; they are opened only where nothing else says it."""
        return self.train_count or len(self.train)

    @property
    def deviates(self) -> str | None:
        """How the images differ from the published ones; then no score is one of the data set."""
        return None

    @property
    def distribution(self) -> Distribution | None:
        """The known distribution that the points are drawn from; None for images, of which there are only samples."""
        return None

    @property
    def files(self) -> FileDataset | None:
        """The data set as one that is prepared from files that a user brings; None where nothing has to be prepared."""
        return None

    def classifier_labels(self) -> tuple[Tensor, Tensor]:
        """Return the classes of training and held-out images, ``[N]`` each, for a feature classifier."""
        raise ConfigError(f"data set '{self.name}' has no labels to train a classifier on; leave [classifier] out")

    def exact_denoiser(self, process: Process) -> Denoiser:
        """Return the closed form of the optimal denoiser, for data that has one."""
        raise ConfigError(f"data set '{self.name}' has no exact teacher; choose a card with --teacher")

    def network(self, name: str, process: str) -> NetworkPreset:
        """Return one of the data set's architectures for a process, made for its images and classes."""
        networks = self.workload.networks
        if name not in networks:
            broken = "".join(f"; {wrong}" for wrong in extended(self.own_workload, self.name)[1])
            raise ConfigError(f"data set '{self.name}' has no network {name!r}{nearest_name(name, networks)}{broken}")
        if process not in networks[name]:
            fitting = [other for other, network in networks.items() if process in network]
            raise ConfigError(
                f"network {name!r} of '{self.name}' is not for process '{process}'; choose one of "
                f"{', '.join(fitting) or 'none'}"
            )
        table = networks[name][process]
        return NetworkPreset(*self._made_for(table), table.parameterisation)

    def classifier(self) -> tuple[ClassifierRecipe, Architecture]:
        """Return the recipe of the data set's feature classifier and its network."""
        recipe = self.workload.classifier
        if recipe is None:
            raise ConfigError(f"data set '{self.name}' has no classifier recipe; choose another data set")
        network, arguments = self._made_for(recipe)
        return recipe, Architecture(network=network, arguments=arguments)

    def _made_for(self, table: NetworkTable) -> tuple[str, dict[str, Argument]]:
        """Return a network and its arguments, those of the images among them."""
        written = table.built()
        own: dict[str, Argument] = {"channels": self.shape[0], "size": self.shape[1]}
        if self.classes:
            own["classes"] = self.classes
        return written.network, {**written.arguments, **own}

    def decode(self, grey: Tensor) -> Tensor:
        """Map grey levels to float32 images in [-1, 1]."""
        return grey.float() * (2 / (self.levels - 1)) - 1

    def quantise(self, images: Tensor) -> Tensor:
        """Round images in [-1, 1] to the nearest of the data set's grey levels, uint8."""
        return ((images + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1).to(torch.uint8)

    @property
    def contents(self) -> object:
        """What identifies images and labels, as a JSON value: from their manifest, where they have one.

        Without a manifest, as here, all images and labels are read.
        """
        splits = {"train": (self.train, self.train_labels), "held_out": (self.held_out, None)}
        found = {name: [list(images.shape), content_sha256(images, labels)]
                 for name, (images, labels) in splits.items()}  # fmt: skip
        return {"name": self.name, **found}

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the data as runs use them: contents, and how these become images and conditions."""
        # Every result is named by this hash: a part that is added, left out or written in another way renames the
        # results of every data set, and nothing would be found again.
        parts = {"contents": self.contents, "levels": self.levels, "classes": self.classes, "flips": self.flips}
        if plugin := plugin_hashes(type(self)):  # whose code decodes and rounds
            parts["plugin"] = plugin
        return hashlib.sha256(canonical(parts).encode()).hexdigest()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute on the data set's number of CPU threads for the length of the context.

        What the caller has set as the type of new tensors does not count: it is float32, as results are named by.
        """
        before, dtype = torch.get_num_threads(), torch.get_default_dtype()
        torch.set_num_threads(self.workload.threads or before)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            torch.set_default_dtype(dtype)

    def preset(self, tier: str | None, process: str) -> tuple[str, Settings]:
        """Return a tier's name and its settings for a process; None means the default tier.

        The teacher of a tier that has a recipe of its own is the one that is trained by it on this machine.
        """
        tiers = self.workload.tiers
        tier = tier or next(iter(tiers))
        if tier not in tiers:
            raise ConfigError(f"data set '{self.name}' has no tier {tier!r}{nearest_name(tier, tiers)}")
        settings = self.workload.settings(tier, process)
        if process in self.workload.recipes.get(tier, {}):
            settings.setdefault("teacher", self.trained_teacher(process, tier))
        return tier, settings

    def trained_teacher(self, process: str, tier: str = FULL) -> str:
        """Return the name of the teacher that a recipe makes, which is also a file's."""
        return f"{file_name(self.name)}-{process}" + f"-{tier}" * (tier != FULL)

    def recipe(self, process: str, tier: str = FULL) -> TeacherRecipe:
        """Return the recipe for a teacher of a process: the full one, or that of a tier."""
        recipes = self.workload.recipes.get(tier, {})
        if process not in recipes:
            of_tier = f" of tier '{tier}'" * (tier != FULL)
            others = [f"--tier {other}" for other, own in self.workload.recipes.items() if process in own]
            remedy = f"; there is one for {' and '.join(others)}" if others else nearest_name(process, recipes)
            raise ConfigError(f"data set '{self.name}' has no recipe for a {process!r} teacher{of_tier}{remedy}")
        return recipes[process]
