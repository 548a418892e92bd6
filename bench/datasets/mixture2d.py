"""Eight narrow modes on a circle: a distribution in the plane that can be looked at."""

from __future__ import annotations

from typing import ClassVar

import torch

from tractbench.datasets.formats.mixture import Mixture

MODES = 8
RADIUS = 0.7
SPREAD = 0.06


class Mixture2D(Mixture):
    """Eight round modes of equal weight."""

    name: ClassVar[str] = "mixture2d"
    summary: ClassVar[str] = "eight Gaussian modes on a circle in the plane, with an exact teacher"
    shape: ClassVar[tuple[int, int, int]] = (2, 1, 1)

    def __init__(self) -> None:
        self.definition = {"modes": MODES, "radius": RADIUS, "spread": SPREAD}
        angle = torch.arange(MODES, dtype=torch.float64) * (2 * torch.pi / MODES)
        self.weights = torch.full((MODES,), 1 / MODES, dtype=torch.float64)
        self.means = RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
        self.covariances = SPREAD**2 * torch.eye(2, dtype=torch.float64).expand(MODES, 2, 2)
