"""What the next training steps depend on, as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state as named tensors ``adam.INDEX.NAME``."""
    state = optimiser.state_dict()["state"]
    return {f"adam.{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what :func:`optimiser_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, *rest = key.split(".")
        if kind == "adam":
            state.setdefault(int(rest[0]), {})[rest[1]] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
