"""Denoisers: anything callable as ``denoise(x_t, t, labels) -> x0``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from tractbench.diffusion.processes import Process, per_sample

SIGMA_DATA = 0.5
"""EDM's standard deviation of images in [-1, 1]."""


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


class EDMDenoiser(nn.Module):
    """EDM's preconditioning D = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, table 1).

    The state is rounded to the network's dtype before the coefficients are formed, and the sum is taken in it.

    Args:
        net: the network F, called as ``net(c_in x, ln(sigma) / 4, labels)``.
        process: a variance-exploding process.
        sigma_data: assumed standard deviation of the data.
    """

    def __init__(self, net: nn.Module, process: Process, sigma_data: float = SIGMA_DATA) -> None:
        super().__init__()
        self.net = net
        self.process = process
        self.sigma_data = sigma_data

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return x0 in the network's dtype."""
        dtype = next(self.net.parameters()).dtype
        sigma = self.process.sigma(t).to(dtype)
        x, total = x_t.to(dtype), sigma**2 + self.sigma_data**2
        c_skip, c_out, c_in = self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt()
        raw = self.net(per_sample(c_in, x) * x, sigma.log() / 4, labels)
        x0: Tensor = per_sample(c_skip, x) * x + per_sample(c_out, x) * raw
        return x0


PARAMETERISATIONS: dict[str, Callable[[nn.Module, Process], nn.Module]] = {"x0": X0Denoiser, "edm": EDMDenoiser}
"""Ways to make a network a denoiser, by the name that cards use."""


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
