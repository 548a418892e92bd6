"""The maximum mean discrepancy under a Gaussian kernel, as CMMD defines it (Jayasumana et al. 2024, arXiv 2401.09603).

Features are scaled to length 1; the kernel is exp(-|x - y|^2 / (2 sigma^2)) with sigma 10; every pair counts, an
image's with itself too; times 1,000. CMMD itself is that of CLIP's network for images of 336 x 336.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

SIGMA = 10.0
SCALE = 1000.0

PAIRS = 1 << 24
"""Kernel values held at once, 128 MiB."""


def kernel_mean(x: Tensor, y: Tensor) -> float:
    """Return the mean over all pairs of rows of the kernel less 1, of which less is lost by rounding.

    Args:
        x: features ``[N, D]``.
        y: features ``[M, D]``.
    """
    left, right = normalize(x.double(), dim=1), normalize(y.double(), dim=1)
    total = 0.0
    for piece in torch.split(left, max(1, PAIRS // len(right))):
        total += float(torch.expm1((piece @ right.T - 1) / SIGMA**2).sum())
    return total / (len(x) * len(y))


def discrepancy(samples: Tensor, reference: Tensor, among_reference: float) -> float:
    """Return the squared discrepancy of features, times 1,000; ``among_reference`` is the reference's own mean."""
    return SCALE * (kernel_mean(samples, samples) + among_reference - 2 * kernel_mean(samples, reference))
