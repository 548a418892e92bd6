"""Builds a network from the name and arguments that a card gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from tractbench.errors import ConfigError
from tractbench.plugins import load_class

Argument = bool | int | float | str | tuple[int, ...]
"""What a card's network argument may be."""


@runtime_checkable
class Initialised(Protocol):
    """A network that draws its own weights."""

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights from the generator."""


def network_class(name: str) -> type[nn.Module]:
    """Return a network's class by the name that it is registered with.

    Raises:
        ConfigError: there is none of that name, the message has the nearest one, or it cannot be loaded.
    """
    found: type[nn.Module] = load_class("networks", name, nn.Module)
    return found


def meta_network(name: str, arguments: Mapping[str, Argument]) -> nn.Module:
    """Return a network without storage: names and shapes only, on the meta device.

    Raises:
        ConfigError: unknown network or arguments it does not take.
    """
    made = network_class(name)
    try:
        with torch.device("meta"):
            return made(**arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"network '{name}' cannot be built from {dict(arguments)}: {error}") from error


def build_network(name: str, arguments: Mapping[str, Argument], generator: torch.Generator | None = None) -> nn.Module:
    """Return a network with weights drawn from the generator, or with undefined ones that must be loaded.

    No global random number is drawn, as a module's own initialisation would.

    Raises:
        ConfigError: unknown network or arguments it does not take.
    """
    network = meta_network(name, arguments)
    # what to_empty does, but its empty_like of a meta tensor imports sympy, for a third of a second
    network._apply(  # type: ignore[no-untyped-call]
        lambda tensor: torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
    )
    if generator is not None:
        if not isinstance(network, Initialised):
            raise ConfigError(f"network '{name}' draws no weights of its own; give it initialise(generator)")
        network.initialise(generator)
    return network
