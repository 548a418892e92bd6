"""What the study needs besides tractbench: TRACT with another distribution of its draws, and mixtures of any size."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tractbench.datasets.formats.mixture import Mixture
from tractbench.diffusion.processes import Process
from tractbench.errors import ConfigError
from tractbench.method import Phase, Times, group_times
from tractbench.methods.tract import TRACT
from tractbench.seeds import generator

SPREAD = 0.06


class TRACTShare(TRACT):
    """TRACT of whose draws a share more is where the phase's student will be asked: at the upper ends of the groups."""

    name: ClassVar[str] = "tract_share"
    summary: ClassVar[str] = "TRACT with more draws at the upper ends of the groups; in the last phase that is t = 1"
    draws: ClassVar[int] = 3

    share: float = Field(0.5, ge=0, le=1, description="draws that are moved to the upper end of their group")

    def times(self, u: Tensor, phase: Phase, progress: float, process: Process) -> Times:
        """Draw a group and a step of the teacher in it, or its first step: k = 0."""
        k = torch.where(u[:, 2] < self.share, 0.0, u[:, 1])
        return group_times(torch.stack([u[:, 0], k], dim=1), phase)


class Modes(Mixture):
    """``modes:K:D``: K narrow modes of equal weight in D dimensions, their centres drawn from N(0, 1/4)."""

    name: ClassVar[str] = "modes"
    summary: ClassVar[str] = "modes:K:D, K narrow Gaussian modes at random places in D dimensions, an exact teacher"

    def __init__(self, argument: str | None = None) -> None:
        modes, _, dimensions = (argument or "8:2").partition(":")
        if not (modes.isdecimal() and dimensions.isdecimal() and int(modes) and int(dimensions)):
            raise ConfigError(f"modes:{argument}: say how many modes in how many dimensions, such as modes:8:2")
        count, size = int(modes), int(dimensions)
        if argument is not None:
            self.name = f"modes:{argument}"  # type: ignore[misc]
        self.definition = {"modes": count, "dimensions": size, "spread": SPREAD}
        self.shape = (size, 1, 1)  # type: ignore[misc]
        self.weights = torch.full((count,), 1 / count, dtype=torch.float64)
        drawn = torch.randn((count, size), dtype=torch.float64, generator=generator("modes", count, size))
        self.means = 0.5 * drawn
        self.covariances = SPREAD**2 * torch.eye(size, dtype=torch.float64).expand(count, size, size)
