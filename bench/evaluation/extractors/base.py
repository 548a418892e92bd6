"""What the scores need of a feature space."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Extractor(ABC):
    """Maps quantised images to features; what it is called and what identifies it is known without its weights."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the feature space; ``fd_NAME`` is the Frechet distance in it."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """What identifies the features: the sha256 of the weights, or a name where there are none."""

    @abstractmethod
    def __call__(self, grey: Tensor) -> Tensor:
        """Return features ``[B, D]`` of grey levels ``[B, C, H, W]`` uint8; weights are loaded at the first call."""
