"""A denoiser that also knows where its jump ends, made of one of the teacher's kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tractbench.diffusion.denoiser import SigmaDenoiser
from tractbench.diffusion.processes import Process
from tractbench.nets.embedding import embedding_width, sinusoidal

FASTEST = 100.0
"""Radians that the fastest sine of the second time turns while it goes from 0 to 1."""


class TwoTimeDenoiser(nn.Module):
    """D(x_t, t, s): the x0 with which one DDIM step leads from t to s.

    The end of the jump is embedded as the linear path's time and added to the network's embedding of the noise level.
    The last layer starts at zero, so that at first the end does not matter and D is the teacher's.

    Args:
        denoiser: a preconditioned network.
        process: a variance-exploding process.
    """

    def __init__(self, denoiser: SigmaDenoiser, process: Process) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.process = process
        width = embedding_width(denoiser.net)
        reference = next(denoiser.net.parameters())
        self.inner = nn.Parameter(torch.eye(width, dtype=reference.dtype, device=reference.device))
        self.outer = nn.Parameter(torch.zeros_like(self.inner))

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        """Return x0 ``[B, C, H, W]`` of jumps from ``t`` to ``t_end``, both ``[B]``; without an end it is t itself."""
        sigma = self.process.sigma(t_end[0] if t_end else t)
        end = (sigma / (1 + sigma)).to(self.inner.dtype)
        features = sinusoidal(FASTEST * end, len(self.inner))
        extra = nn.functional.silu(features @ self.inner) @ self.outer
        x0: Tensor = self.denoiser(x_t, t, labels, extra=extra)
        return x0
