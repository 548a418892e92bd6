"""Compiled passes of networks; the networks themselves stay as they are, and so do the names of their weights."""

from __future__ import annotations

import torch
from torch import nn


def compiled(network: nn.Module) -> nn.Module:
    """Return a network of the same weights whose passes run as ``torch.compile`` makes them.

    Numbers differ by rounding, so it is never part of a run's identity. Each shape of a batch is compiled by itself,
    when it first comes.
    """
    made: nn.Module = torch.compile(network, dynamic=False)  # type: ignore[assignment]  # a module of a module is one
    return made
