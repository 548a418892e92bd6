"""Bias-corrected exponential moving averages of a network's parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class BiasCorrectedEMA(Generic[Network]):
    """Moving average with the weight (1 - mu) / (1 - mu^i) at update i: the first update replaces the start entirely.

    Args:
        module: the network to average; it is copied.
        momentum: mu in [0, 1).
        dtype: what the average is kept in. Momenta near 1 need float64: in float32 an increment of 1e-5 of a small
            difference is rounded away.

    Attributes:
        module: a copy of the network that holds the average, without gradients.
        updates: number of updates so far.
    """

    def __init__(self, module: Network, momentum: float, dtype: torch.dtype | None = None) -> None:
        self.module = copy.deepcopy(module).to(dtype).requires_grad_(False).eval()
        self.momentum = momentum
        self.updates = 0
        self._average = list(self.module.parameters())

    def weight(self, update: int) -> float:
        """Return (1 - mu) / (1 - mu^i) for update ``i``, from 1."""
        if self.momentum == 0:
            return 1.0
        return (1 - self.momentum) / -math.expm1(update * math.log(self.momentum))

    def reset(self) -> None:
        """Make the next update the first one again."""
        self.updates = 0

    @torch.no_grad()
    def update(self, parameters: list[nn.Parameter]) -> None:
        """Move the average towards ``parameters``, the averaged network's in their own order."""
        self.updates += 1
        weight = self.weight(self.updates)
        pairs: list[tuple[Tensor, Tensor]] = list(zip(self._average, parameters, strict=True))
        if all(a.dtype == p.dtype for a, p in pairs):
            torch._foreach_lerp_([a for a, _ in pairs], [p for _, p in pairs], weight)
            return
        for a, p in pairs:  # one by one: no second copy of all parameters in the wider dtype
            a.lerp_(p.to(a.dtype), weight)

    def copy_to(self, module: nn.Module) -> None:
        """Write the average into a network of the same architecture, in that network's dtype."""
        load_parameters(module, dict(self.module.named_parameters()))


@torch.no_grad()
def load_parameters(module: nn.Module, source: Mapping[str, Tensor]) -> None:
    """Copy same-named tensors into a network's parameters."""
    for name, parameter in module.named_parameters():
        parameter.copy_(source[name])
