"""Denoisers: anything callable as ``denoise(x_t, t, labels) -> x0``."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from tractbench.diffusion.processes import Process


class Denoiser(Protocol):
    """Predicts the clean image."""

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return x0 for ``x_t`` ``[B, C, H, W]`` at times ``t`` ``[B]`` in [0, 1], of the same shape."""


class X0Denoiser(nn.Module):
    """A network that takes (x_t, logSNR) and predicts x0 itself.

    Args:
        net: the network, called as ``net(x_t, log_snr, labels)`` in its own dtype.
        process: the process whose times the denoiser is called with.
    """

    def __init__(self, net: nn.Module, process: Process) -> None:
        super().__init__()
        self.net = net
        self.process = process

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return x0 in the network's dtype; the state is rounded to that dtype only here."""
        dtype = next(self.net.parameters()).dtype
        x0: Tensor = self.net(x_t.to(dtype), self.process.log_snr(t).to(dtype), labels)
        return x0


class CountingDenoiser:
    """Counts the evaluations that a solver really spends on each sample.

    Attributes:
        evaluations: calls so far.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.evaluations = 0

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Count the call and make it."""
        self.evaluations += 1
        return self.denoiser(x_t, t, labels)
