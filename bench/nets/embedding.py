"""Noise-level embeddings shared by the networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def with_extra(embedding: Tensor, extra: Tensor | None) -> Tensor:
    """Return an embedding ``[B, E]`` of the noise level with a caller's own added, such as that of a second time."""
    return embedding if extra is None else embedding + extra


def embedding_width(network: nn.Module) -> int:
    """Return the width E of the embedding ``extra`` ``[B, E]`` that a network takes beside its noise level.

    Raises:
        TypeError: it takes none.
    """
    width = getattr(network, "embedding", None)
    if not isinstance(width, int):
        raise TypeError(f"{type(network).__name__} takes no embedding beside that of its noise level")
    return width


def log_snr_to_unit(log_snr: Tensor) -> Tensor:
    """Map logSNR to (0, 1), linear in the time of the cosine schedule; clipped to [-20, 20] (Salimans & Ho 2022)."""
    return torch.atan(torch.exp(-log_snr.clamp(-20.0, 20.0) / 2)) / (math.pi / 2)


def sinusoidal(position: Tensor, width: int) -> Tensor:
    """Embed ``position`` ``[B]`` as ``[sin, cos]`` of ``width / 2`` frequencies from 1 down to 1e-4, ``[B, width]``."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=position.device) * (-math.log(10000.0) / (half - 1)))
    angle = position[:, None] * frequency.to(position.dtype)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
