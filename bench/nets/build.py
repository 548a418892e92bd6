"""Builds a network from the name and arguments that a card gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from tractbench.errors import ConfigError, nearest_name
from tractbench.nets.classifier import Classifier
from tractbench.nets.dhariwal_unet import DhariwalUNet
from tractbench.nets.google_unet import GoogleUNet
from tractbench.nets.mlp import MLP
from tractbench.nets.song_unet import SongUNet

Argument = bool | int | float | str | tuple[int, ...]
"""What a card's network argument may be."""


@runtime_checkable
class Initialised(Protocol):
    """A network that draws its own weights."""

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from the generator."""


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "classifier": Classifier,
    "dhariwal_unet": DhariwalUNet,
    "google_unet": GoogleUNet,
    "mlp": MLP,
    "song_unet": SongUNet,
}


def meta_network(name: str, arguments: Mapping[str, Argument]) -> nn.Module:
    """Return a network without storage: names and shapes only, on the meta device.

    Raises:
        ConfigError: unknown network or arguments it does not take.
    """
    if name not in NETWORKS:
        raise ConfigError(f"unknown network '{name}'{nearest_name(name, NETWORKS)}")
    try:
        with torch.device("meta"):
            return NETWORKS[name](**arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"network '{name}' cannot be built from {dict(arguments)}: {error}") from error


def build_network(name: str, arguments: Mapping[str, Argument], generator: torch.Generator | None = None) -> nn.Module:
    """Return a network with weights drawn from the generator, or with undefined ones that must be loaded.

    No global random number is drawn, as a module's own initialisation would.

    Raises:
        ConfigError: unknown network or arguments it does not take.
    """
    network = meta_network(name, arguments).to_empty(device="cpu")
    if generator is not None:
        initialised: Initialised = network  # type: ignore[assignment]
        initialised.initialise(generator)
    return network
