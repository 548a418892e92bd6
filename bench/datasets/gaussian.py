"""One Gaussian with a full covariance, in any dimension: its DDIM chain is an affine map."""

from __future__ import annotations

from typing import ClassVar

import torch

from tractbench.datasets.formats.mixture import Mixture
from tractbench.errors import ConfigError
from tractbench.seeds import generator


class Gaussian(Mixture):
    """``gaussian`` in 8 dimensions, or ``gaussian:D``; variances from 0.01 to 0.5 along random axes."""

    name: ClassVar[str] = "gaussian"
    summary: ClassVar[str] = "one Gaussian with full covariance and an exact teacher; gaussian:D for D dimensions (8)"

    def __init__(self, argument: str | None = None) -> None:
        if argument is not None and not (argument.isascii() and argument.isdecimal() and 1 <= int(argument) <= 4096):
            raise ConfigError(f"gaussian:{argument}: dimensions are a whole number from 1 to 4096; try gaussian:8")
        dimensions = int(argument or 8)
        random = generator("gaussian", dimensions)
        axes, _ = torch.linalg.qr(torch.randn((dimensions, dimensions), dtype=torch.float64, generator=random))
        variances = torch.logspace(-2, -0.3, dimensions, dtype=torch.float64)
        if dimensions == 1:
            variances = torch.full((1,), 0.25, dtype=torch.float64)
        self.name = f"gaussian:{dimensions}" if argument is not None else "gaussian"  # type: ignore[misc]
        self.definition = {"dimensions": dimensions}
        self.shape = (dimensions, 1, 1)  # type: ignore[misc]
        self.weights = torch.ones(1, dtype=torch.float64)
        self.means = 0.3 * torch.randn((1, dimensions), dtype=torch.float64, generator=random)
        self.covariances = (axes * variances @ axes.T)[None]
