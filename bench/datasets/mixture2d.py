"""Eight narrow modes on a circle: a distribution in the plane that can be looked at."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from tractbench.datasets.formats.mixture import TRAINING_POINTS, Mixture
from tractbench.diffusion.analytic import ConditionalMixtureDenoiser, MixtureDenoiser
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.errors import ConfigError

MODES = 8
RADIUS = 0.7
SPREAD = 0.06


class Mixture2D(Mixture):
    """Eight round modes of equal weight; of ``mixture2d:conditional`` each is a class."""

    name: ClassVar[str] = "mixture2d"
    summary: ClassVar[str] = (
        "eight Gaussian modes on a circle, with an exact teacher; mixture2d:conditional has classes"
    )
    shape: ClassVar[tuple[int, int, int]] = (2, 1, 1)

    def __init__(self, argument: str | None = None) -> None:
        if argument not in (None, "conditional"):
            raise ConfigError(f"mixture2d:{argument}: there is mixture2d and mixture2d:conditional")
        if argument:
            self.name = f"mixture2d:{argument}"  # type: ignore[misc]
            self.classes = MODES  # type: ignore[misc]
        self.definition = {"modes": MODES, "radius": RADIUS, "spread": SPREAD}
        angle = torch.arange(MODES, dtype=torch.float64) * (2 * torch.pi / MODES)
        self.weights = torch.full((MODES,), 1 / MODES, dtype=torch.float64)
        self.means = RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
        self.covariances = SPREAD**2 * torch.eye(2, dtype=torch.float64).expand(MODES, 2, 2)

    @property
    def train_labels(self) -> Tensor | None:
        """The modes of the training points ``[N]``, None if runs are not conditional."""
        return self.modes(TRAINING_POINTS, "train") if self.classes else None

    def exact_denoiser(self, process: Process) -> Denoiser:
        """Return the optimal denoiser in closed form, that of each mode if runs are conditional."""
        kind = ConditionalMixtureDenoiser if self.classes else MixtureDenoiser
        return kind(process, self.weights, self.means, self.covariances)
