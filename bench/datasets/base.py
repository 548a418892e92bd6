"""What the engine needs of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from tractbench.errors import ConfigError, nearest_name

Settings = Mapping[str, object]


@dataclass(frozen=True)
class TeacherRecipe:
    """How a teacher for a data set is trained from scratch.

    Attributes:
        network: name of the network preset.
        arguments: its constructor's arguments.
        parameterisation: how the network's output becomes x0.
        weight_cap: the x0 loss is weighted by SNR limited to [1, weight_cap].
        steps: optimiser steps.
        batch: images a step.
        lr: peak learning rate, warmed up over the first tenth at most 500 steps, then a half cosine to 0.
        ema: momentum of the bias-corrected moving average that is kept.
    """

    network: str
    arguments: Mapping[str, int]
    parameterisation: str
    weight_cap: float
    steps: int
    batch: int
    lr: float
    ema: float


class Dataset:
    """Images with a fixed split, a grey-level grid and settings for each tier.

    Attributes:
        name: what ``--dataset`` takes.
        summary: one line for listings.
        shape: (C, H, W).
        levels: grey levels an image can have; 256 for 8-bit images.
        classes: number of classes used for conditioning; 0 for none.
        processes: processes it has a teacher for, the default first.
        teachers: name of the default teacher card for each process.
        recipes: how ``tractbench teacher train`` trains a teacher for each process.
        features: name of the feature extractor for the Frechet feature distance.
        protocol: name of the default evaluation protocol.
        tiers: run settings for each tier, the default tier first.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    shape: ClassVar[tuple[int, int, int]]
    levels: ClassVar[int] = 256
    classes: ClassVar[int] = 0
    flips: ClassVar[bool] = False
    processes: ClassVar[tuple[str, ...]] = ("vp",)
    teachers: ClassVar[Mapping[str, str]] = {}
    recipes: ClassVar[Mapping[str, TeacherRecipe]] = {}
    features: ClassVar[str]
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

    def preset(self, tier: str | None) -> tuple[str, Settings]:
        """Return a tier's name and settings; None means the default tier."""
        tier = tier or next(iter(self.tiers))
        if tier not in self.tiers:
            raise ConfigError(f"data set '{self.name}' has no tier '{tier}'{nearest_name(tier, self.tiers)}")
        return tier, self.tiers[tier]

    def recipe(self, process: str) -> TeacherRecipe:
        """Return the recipe for a teacher of a process."""
        if process not in self.recipes:
            raise ConfigError(
                f"data set '{self.name}' has no recipe for a '{process}' teacher{nearest_name(process, self.recipes)}"
            )
        return self.recipes[process]
