"""What the analytic data sets share: a mixture of Gaussians whose optimal denoiser is a closed form."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.datasets.workload import WORKLOADS
from tractbench.diffusion.analytic import MixtureDenoiser
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.seeds import generator

TRAINING_POINTS = 1 << 16
HELD_OUT_POINTS = 5000


class Mixture(Dataset):
    """Points ``[N, D, 1, 1]`` of a known mixture, as floats that are never rounded nor clipped.

    Attributes:
        weights: ``[K]``, summing to 1.
        means: ``[K, D]``.
        covariances: ``[K, D, D]``.
        definition: JSON values that the parameters are computed from. Sines and orthogonal matrices differ in their
            last bits from one processor to the next, and the data should not have another name for it.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    definition: Mapping[str, object] | None = None
    clips: ClassVar[bool] = False
    train_count: ClassVar[int] = TRAINING_POINTS
    workload_file: ClassVar[Path] = WORKLOADS / "mixture.toml"

    @property
    def distribution(self) -> Mixture:
        """The mixture itself."""
        return self

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture ``[D]``, float64."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """Covariance of the mixture ``[D, D]``, float64: within the modes and between them."""
        centred = self.means - self.mean
        within = torch.einsum("k,kde->de", self.weights, self.covariances)
        return within + torch.einsum("k,kd,ke->de", self.weights, centred, centred)

    def draw(self, count: int, *names: str | int) -> Tensor:
        """Draw points ``[count, D, 1, 1]``, float32, from a generator named by the data set and ``names``."""
        random = generator(self.name, *names)
        mode = self._modes(count, random)
        noise = torch.randn((count, self.means.shape[1]), dtype=torch.float64, generator=random)
        roots = torch.linalg.cholesky(self.covariances)
        points = self.means[mode] + torch.einsum("bde,be->bd", roots[mode], noise)
        return points.float()[:, :, None, None]

    def modes(self, count: int, *names: str | int) -> Tensor:
        """Return the components ``[count]`` of the points that :meth:`draw` draws for the same arguments."""
        return self._modes(count, generator(self.name, *names))

    def _modes(self, count: int, random: torch.Generator) -> Tensor:
        return torch.multinomial(self.weights, count, replacement=True, generator=random)

    @cached_property
    def train(self) -> Tensor:
        """65,536 points to train on."""
        return self.draw(TRAINING_POINTS, "train")

    @cached_property
    def held_out(self) -> Tensor:
        """5,000 other points: what a perfect sampler would give."""
        return self.draw(HELD_OUT_POINTS, "held out")

    @property
    def contents(self) -> object:
        """What the mixture is made from, of which all points follow, or its parameters where nobody says."""
        if self.definition is not None:
            return {"name": self.name, "definition": dict(self.definition)}
        digest = hashlib.sha256()
        for tensor in (self.weights, self.means, self.covariances):
            digest.update(f" {tuple(tensor.shape)} ".encode())
            digest.update(tensor.double().contiguous().numpy().tobytes())
        return {"name": self.name, "parameters": digest.hexdigest()}

    def exact_denoiser(self, process: Process) -> Denoiser:
        """Return the optimal denoiser in closed form."""
        return MixtureDenoiser(process, self.weights, self.means, self.covariances)

    def decode(self, grey: Tensor) -> Tensor:
        """Return the points as they are."""
        return grey

    def quantise(self, images: Tensor) -> Tensor:
        """Return the points as they are."""
        return images

    def density(self, points: Tensor) -> Tensor:
        """Return the true density ``[N]`` at points ``[N, D]``, float64."""
        centred = points.double()[:, None] - self.means
        solved = torch.linalg.solve(self.covariances, centred[..., None])[..., 0]
        log_det = torch.linalg.slogdet(2 * torch.pi * self.covariances)[1]
        return (self.weights * torch.exp(-0.5 * ((centred * solved).sum(2) + log_det))).sum(1)
