"""Denoisers: anything callable as ``denoise(x_t, t, labels) -> x0``."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from tractbench.diffusion.preconditioning import EDM, Scheme
from tractbench.diffusion.processes import Process, per_sample


class Denoiser(Protocol):
    """Predicts the clean image.

    A student of a method with ``two_times`` is also given where its jump ends, ``[B]``, and only such a one is.
    """

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        """Return x0 for ``x_t`` ``[B, C, H, W]`` at times ``t`` ``[B]`` in [0, 1], of the same shape."""


@runtime_checkable
class Movable(Protocol):
    """What holds tensors: networks, and closed forms with parameters of a distribution."""

    def to(self, device: torch.device | str) -> Self:
        """Return it with its tensors on a device."""


def on_device(denoiser: Denoiser, device: torch.device | str) -> Denoiser:
    """Return a denoiser with its tensors on a device, a network being moved itself; a function is returned as it is."""
    return denoiser.to(device) if isinstance(denoiser, Movable) else denoiser


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


class BothDenoiser(X0Denoiser):
    """A network over (x_t, logSNR) that predicts x0 and eps at once (Salimans & Ho 2022), on a VP process."""

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return x0 in the network's dtype."""
        dtype = next(self.net.parameters()).dtype
        z, log_snr = x_t.to(dtype), self.process.log_snr(t).to(dtype)
        return x0_from_both(self.net(z, log_snr, labels), z, log_snr)


def x0_from_both(output: Tensor, z: Tensor, log_snr: Tensor) -> Tensor:
    """Return x0 ``[B, C, H, W]`` from predictions of x and eps, weighted by sigma^2 and alpha^2 (Salimans & Ho 2022).

    Args:
        output: predictions of x, then of eps, ``[B, 2 C, H, W]``.
        z: noisy images alpha x + sigma eps with alpha^2 + sigma^2 = 1, ``[B, C, H, W]``.
        log_snr: ln(alpha^2 / sigma^2), ``[B]``.
    """
    x, eps = output.chunk(2, dim=1)
    # sigmoid(-logSNR), as 1 - alpha^2 would vanish; alpha^2 (z - sigma eps) / alpha without the division
    variance, signal = per_sample(torch.sigmoid(-log_snr), z), per_sample(torch.sigmoid(log_snr), z)
    return variance * x + signal.sqrt() * (z - variance.sqrt() * eps)


class SigmaDenoiser(nn.Module):
    """A preconditioned network, D = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, table 1).

    The state is rounded to the network's dtype before the coefficients are formed, and the sum is taken in it.

    Args:
        net: the network F, called as ``net(c_in x, c_noise, labels)``; of more outputs than the image has channels the
            others are ignored.
        process: a variance-exploding process.
        scheme: the preconditioning.
    """

    def __init__(self, net: nn.Module, process: Process, scheme: Scheme | None = None) -> None:
        super().__init__()
        self.net = net
        self.process = process
        self.scheme = scheme or EDM()

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, extra: Tensor | None = None) -> Tensor:
        """Return x0 in the network's dtype; ``extra`` ``[B, E]`` is for the network's embedding of the noise level."""
        dtype = next(self.net.parameters()).dtype
        c = self.scheme.coefficients(self.process.sigma(t).to(dtype))
        x = x_t.to(dtype)
        more = {} if extra is None else {"extra": extra}
        raw = self.net(per_sample(c.scale, x) * x, c.noise, labels, **more)[:, : x.shape[1]]
        x0: Tensor = per_sample(c.skip, x) * x + per_sample(c.out, x) * raw
        return x0


PARAMETERISATIONS: dict[str, type[X0Denoiser]] = {"x0": X0Denoiser, "both": BothDenoiser}
"""Ways to make a network over logSNR a denoiser, by the name that cards use; others are preconditionings."""


class CountingDenoiser:
    """Counts the evaluations that a solver really spends on each sample.

    Attributes:
        evaluations: calls so far.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.evaluations = 0

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        """Count the call and make it."""
        self.evaluations += 1
        return self.denoiser(x_t, t, labels, *t_end)
