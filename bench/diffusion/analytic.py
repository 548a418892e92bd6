"""Exact denoisers of Gaussian mixtures: with them, any error of a student is the distillation's own."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tractbench.diffusion.processes import Process


class MixtureDenoiser:
    """E[x0 | x_t] of a mixture of Gaussians, for any process.

    The posterior weights come from N(alpha m_k, alpha^2 S_k + sigma^2 I), the posterior means are
    m_k + alpha S_k (alpha^2 S_k + sigma^2 I)^-1 (x_t - alpha m_k).

    Args:
        process: the diffusion process.
        weights: ``[K]``, positive, summing to 1.
        means: ``[K, D]``.
        covariances: ``[K, D, D]``.
    """

    def __init__(self, process: Process, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.process = process
        self.weights, self.means = weights.double(), means.double()
        # one basis for all times: alpha^2 S + sigma^2 I has the eigenvectors of S
        values, self._vectors = torch.linalg.eigh(covariances.double())
        if float(values.min()) < -1e-12 * float(values.max()):
            raise ValueError(f"a covariance has the negative eigenvalue {float(values.min()):.3g}")
        self._values = values.clamp(min=0)

    def to(self, device: torch.device | str) -> MixtureDenoiser:
        """Return the same denoiser with its tensors on a device."""
        moved = copy.copy(self)
        for name in ("weights", "means", "_values", "_vectors"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        """Return the posterior mean in float64, ``x_t`` ``[B, D, 1, 1]`` at times ``t`` ``[B]``; ends do not matter."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        x = x_t.double().flatten(1)
        values = self._values
        variance = alpha[:, None, None] ** 2 * values + sigma[:, None, None] ** 2  # [B, K, D]
        centred = x[:, None] - alpha[:, None, None] * self.means  # [B, K, D]
        along = torch.einsum("bkd,kde->bke", centred, self._vectors)
        log_weight = self.weights.log() - 0.5 * (along**2 / variance + variance.log()).sum(2)
        posterior = self._posterior(log_weight, labels)  # [B, K]
        step = torch.einsum("bke,kde->bkd", alpha[:, None, None] * values / variance * along, self._vectors)
        return (posterior[:, :, None] * (self.means + step)).sum(1).reshape(x_t.shape)

    def _posterior(self, log_weight: Tensor, labels: Tensor | None) -> Tensor:
        """Return the probabilities of the components ``[B, K]`` of their unnormalised logarithms; labels do not count.

        Args:
            log_weight: ``[B, K]``.
            labels: class indices ``[B]`` or None.
        """
        return torch.softmax(log_weight, dim=1)


class ConditionalMixtureDenoiser(MixtureDenoiser):
    """E[x0 | x_t, y] of a mixture of which each component is a class: that of the component y alone."""

    def _posterior(self, log_weight: Tensor, labels: Tensor | None) -> Tensor:
        """Return 1 for the component that the label names and 0 for the others, ``[B, K]``."""
        if labels is None:
            raise ValueError("a class-conditional denoiser needs labels")
        return torch.nn.functional.one_hot(labels, log_weight.shape[1]).to(log_weight)
