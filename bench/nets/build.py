"""Builds a network from the name and arguments that a card gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from tractbench.errors import ConfigError, nearest_name
from tractbench.nets.classifier import Classifier
from tractbench.nets.mlp import MLP

NETWORKS: Mapping[str, Callable[..., MLP | Classifier]] = {"mlp": MLP, "classifier": Classifier}


def build_network(name: str, arguments: Mapping[str, int], generator: torch.Generator | None = None) -> nn.Module:
    """Return a network with weights drawn from the generator, or with undefined ones that must be loaded.

    No global random number is drawn, as a module's own initialisation would.

    Raises:
        ConfigError: unknown network or arguments it does not take.
    """
    if name not in NETWORKS:
        raise ConfigError(f"unknown network '{name}'{nearest_name(name, NETWORKS)}")
    try:
        with torch.device("meta"):
            network = NETWORKS[name](**arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"network '{name}' cannot be built from {dict(arguments)}: {error}") from error
    network = network.to_empty(device="cpu")
    if generator is not None:
        network.initialise(generator)
    return network
