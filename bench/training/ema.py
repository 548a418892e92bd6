"""Bias-corrected exponential moving averages of a network's parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

FOLD_EVERY = 64


def ema_weight(momentum: float, update: int) -> float:
    """Return (1 - mu) / (1 - mu^i) for update ``i``, from 1: the first update replaces the start entirely."""
    if momentum == 0:
        return 1.0
    return (1 - momentum) / -math.expm1(update * math.log(momentum))


class BiasCorrectedEMA:
    """Moving average with the weight (1 - mu) / (1 - mu^i) at update i, in the network's own dtype.

    Args:
        module: the network to average; it is copied.
        momentum: mu in [0, 1).

    Attributes:
        module: a copy of the network that holds the average, without gradients.
        updates: number of updates so far.
    """

    def __init__(self, module: nn.Module, momentum: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.momentum = momentum
        self.updates = 0
        self._average = list(self.module.parameters())

    @torch.no_grad()
    def update(self, parameters: list[nn.Parameter]) -> None:
        """Move the average towards ``parameters``, the averaged network's in their own order."""
        self.updates += 1
        _lerp(self._average, parameters, ema_weight(self.momentum, self.updates))


class LongEMA:
    """The same average for momenta near 1, where float32 would round its small increments away.

    The updates since the last fold are averaged in the network's dtype, with increments of at least 1 / FOLD_EVERY;
    every FOLD_EVERY updates that mean is folded into a float64 average with the weight of all of its updates. An
    update costs what one in float32 does, half of one in float64.

    Args:
        module: the network to average; it is copied.
        momentum: mu in [0, 1).

    Attributes:
        recent: copy of the network that holds the mean since the last fold, in the network's dtype.
        folded: copy of it that holds the average up to the last fold, in float64.
        share: weight of ``recent`` in the whole average.
        updates: number of updates so far.
    """

    def __init__(self, module: nn.Module, momentum: float) -> None:
        self.recent = copy.deepcopy(module).requires_grad_(False).eval()
        self.folded = copy.deepcopy(self.recent).double()
        self.momentum = momentum
        self.share = 0.0
        self.updates = 0
        self._recent, self._folded = list(self.recent.parameters()), list(self.folded.parameters())

    def reset(self) -> None:
        """Make the next update the first one again."""
        self.updates = 0

    @torch.no_grad()
    def update(self, parameters: list[nn.Parameter]) -> None:
        """Move the average towards ``parameters``, the averaged network's in their own order."""
        self.updates += 1
        weight = ema_weight(self.momentum, self.updates)
        self.share = weight + self.share * (1 - weight)
        _lerp(self._recent, parameters, weight / self.share)
        if self.updates % FOLD_EVERY == 0:
            for folded, recent in zip(self._folded, self._recent, strict=True):
                folded.lerp_(recent.double(), self.share)
            self.share = 0.0

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Write the average into a network of the same architecture, in that network's dtype."""
        recent = dict(self.recent.named_parameters())
        load_parameters(module, {n: p.lerp(recent[n].double(), self.share) for n, p in self.folded.named_parameters()})


def _lerp(average: list[nn.Parameter], parameters: list[nn.Parameter], weight: float) -> None:
    if len(average) != len(parameters):
        raise ValueError(f"{len(parameters)} parameters for an average of {len(average)}")
    torch._foreach_lerp_(list[Tensor](average), list[Tensor](parameters), weight)


@torch.no_grad()
def load_parameters(module: nn.Module, source: Mapping[str, Tensor]) -> None:
    """Copy same-named tensors into a network's parameters."""
    for name, parameter in module.named_parameters():
        parameter.copy_(source[name])
