"""Iris: the four lengths that Fisher (1936) published of 150 flowers, as a mixture of one Gaussian for each species."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import torch
from sklearn.datasets import load_iris
from torch import Tensor

from tractbench.datasets.formats.mixture import Mixture

SCALE = 4.0
"""Centimetres from 0 to the middle of [-1, 1]: the longest sepal has 7.9."""


class Iris(Mixture):
    """Sepal and petal, length and width; points are drawn from the Gaussians, so that there is no end of them."""

    name: ClassVar[str] = "iris"
    summary: ClassVar[str] = "iris measurements, a Gaussian in 4 dimensions for each of 3 species; exact teacher"
    shape: ClassVar[tuple[int, int, int]] = (4, 1, 1)
    workload_file: ClassVar[Path] = Path(__file__).with_name("workload.toml")

    def __init__(self) -> None:
        points, species = measurements()
        groups = [points[species == index] for index in range(3)]
        # what parameters are computed from, not their last bits, names the data
        self.definition = {"points": hashlib.sha256(points.numpy().tobytes()).hexdigest()}
        self.weights = torch.tensor([len(group) / len(points) for group in groups], dtype=torch.float64)
        self.means = torch.stack([group.mean(0) for group in groups])
        self.covariances = torch.stack([torch.cov(group.T, correction=0) for group in groups])


def measurements() -> tuple[Tensor, Tensor]:
    """Return the flowers ``[150, 4]``, float64, scaled into [-1, 1], and their species ``[150]``."""
    found = load_iris()
    return torch.from_numpy(found.data).double() / SCALE - 1, torch.from_numpy(found.target)
