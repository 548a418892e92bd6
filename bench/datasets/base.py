"""What the engine needs of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.errors import ConfigError, nearest_name
from tractbench.nets.build import Argument

Settings = Mapping[str, object]


@dataclass(frozen=True)
class NetworkPreset:
    """A denoiser's architecture.

    Attributes:
        network: name of the architecture.
        arguments: its constructor's arguments.
        parameterisation: how the network's output becomes x0.
    """

    network: str
    arguments: Mapping[str, Argument]
    parameterisation: str

    @property
    def key(self) -> dict[str, object]:
        """All that decides the network, as JSON values."""
        arguments = {name: list(v) if isinstance(v, tuple) else v for name, v in self.arguments.items()}
        return {"network": self.network, "arguments": arguments, "parameterisation": self.parameterisation}

    @classmethod
    def mlp(cls, process: str, **arguments: int) -> NetworkPreset:
        """Return an MLP: predicting x0 from logSNR for VP, inside EDM's preconditioning for VE."""
        if process == "ve":
            return cls("mlp", {**arguments, "c_noise": 1}, "edm")
        return cls("mlp", arguments, "x0")


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


@dataclass(frozen=True)
class TeacherRecipe:
    """How a teacher for a data set is trained from scratch.

    Attributes:
        network: name of one of the data set's networks.
        weight_cap: the x0 loss is weighted by SNR limited to [1, weight_cap]; for VE, SNR is sigma_data^2 / sigma^2.
        steps: optimiser steps.
        batch: images a step.
        lr: peak learning rate, warmed up over the first tenth at most 500 steps, then a half cosine to 0.
        ema: momentum of the bias-corrected moving average that is kept.
        loss: ``capped_snr`` at uniform times, or ``edm``: Karras et al.'s weight at log-normal noise levels, for VE.
    """

    network: str
    weight_cap: float
    steps: int
    batch: int
    lr: float
    ema: float
    loss: Literal["capped_snr", "edm"] = "capped_snr"


class Dataset:
    """Images with a fixed split, a grey-level grid and settings for each tier.

    Attributes:
        name: what ``--dataset`` takes.
        summary: one line for listings.
        shape: (C, H, W).
        levels: grey levels an image can have; 256 for 8-bit images.
        classes: number of classes used for conditioning; 0 for none.
        threads: CPU threads that its networks run on, None for all: threads that share too little work only wait for
            each other, and results do not then depend on the number of cores.
        flips: whether training images are mirrored at random.
        clips: whether predicted images may be clipped to [-1, 1]; data without bounds may not.
        processes: processes it has a teacher for, the default first.
        teachers: name of the default teacher card for each process, or ``exact`` where the teacher is a closed form.
        train_count: training images that there are, where they need not be on this machine.
        networks: networks that a student or teacher can have, by name, the usual one first; bare arguments are those
            of an MLP.
        recipes: how ``tractbench teacher train`` trains a teacher for each process; ``-smoke`` after it is a trial.
        features: name of the feature extractor for the Frechet feature distance.
        protocol: name of the default evaluation protocol.
        tiers: run settings for each tier, the default tier first; a process's name holds what differs for it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    shape: ClassVar[tuple[int, int, int]]
    levels: ClassVar[int] = 256
    classes: ClassVar[int] = 0
    threads: ClassVar[int | None] = None
    flips: ClassVar[bool] = False
    clips: ClassVar[bool] = True
    processes: ClassVar[tuple[str, ...]] = ("vp",)
    teachers: ClassVar[Mapping[str, str]] = {}
    train_count: ClassVar[int] = 0
    networks: ClassVar[Mapping[str, NetworkPreset | Mapping[str, int]]] = {}
    recipes: ClassVar[Mapping[str, TeacherRecipe]] = {}
    features: ClassVar[str] = ""
    protocol: ClassVar[str] = "raw"
    tiers: ClassVar[Mapping[str, Settings]] = {}

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

    def exact_denoiser(self, process: Process) -> Denoiser:
        """Return the closed form of the optimal denoiser, for data that has one."""
        raise ConfigError(f"data set '{self.name}' has no exact teacher; choose a card with --teacher")

    def network(self, name: str, process: str) -> NetworkPreset:
        """Return one of the data set's architectures for a process."""
        if name not in self.networks:
            raise ConfigError(f"data set '{self.name}' has no network {name!r}{nearest_name(name, self.networks)}")
        preset = self.networks[name]
        if not isinstance(preset, NetworkPreset):
            return NetworkPreset.mlp(process, **preset)
        if (preset.parameterisation == "edm") != (process == "ve"):
            raise ConfigError(f"network {name!r} of '{self.name}' is not for process '{process}'; choose another")
        return preset

    def decode(self, grey: Tensor) -> Tensor:
        """Map grey levels to float32 images in [-1, 1]."""
        return grey.float() * (2 / (self.levels - 1)) - 1

    def quantise(self, images: Tensor) -> Tensor:
        """Round images in [-1, 1] to the nearest of the data set's grey levels, uint8."""
        return ((images + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1).to(torch.uint8)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of the data as used: both splits, their shapes and the number of grey levels."""
        digest = hashlib.sha256(f"{self.name} {self.levels}".encode())
        for images in (self.train, self.held_out):
            digest.update(f" {tuple(images.shape)} ".encode())
            digest.update(images.contiguous().numpy().tobytes())
        return digest.hexdigest()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute on the data set's number of CPU threads for the length of the context."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def preset(self, tier: str | None, process: str) -> tuple[str, Settings]:
        """Return a tier's name and its settings for a process; None means the default tier."""
        tier = tier or next(iter(self.tiers))
        if tier not in self.tiers:
            raise ConfigError(f"data set '{self.name}' has no tier {tier!r}{nearest_name(tier, self.tiers)}")
        settings = dict(self.tiers[tier])
        differing: dict[str, object] = {name: settings.pop(name) for name in ("vp", "ve") if name in settings}
        own = differing.get(process, {})
        return tier, {**settings, **(own if isinstance(own, Mapping) else {})}

    def recipe(self, process: str) -> TeacherRecipe:
        """Return the recipe for a teacher of a process."""
        if process not in self.recipes:
            raise ConfigError(
                f"data set '{self.name}' has no recipe for a {process!r} teacher{nearest_name(process, self.recipes)}"
            )
        return self.recipes[process]
