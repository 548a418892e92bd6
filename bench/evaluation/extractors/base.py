"""What the scores need of a feature space."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.plugins import load_class
from tractbench.progress import Progress


class Extractor(ABC):
    """Maps quantised images to features; what it is called and what identifies it is known without its weights.

    It is registered in the entry-point group ``tractbench.extractors``, and a class attribute ``name`` says under which
    name. One of a plugin counts in identities with its whole distribution.

    Args:
        dataset: the data whose images it maps.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

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

    def prepare(self, device: str, progress: Progress) -> None:  # noqa: B027
        """Fetch and load the weights now; a small network, and pixels, need none of it.

        Args:
            device: where the network is to run; features are returned on the CPU.
            progress: draws a download.
        """

    @property
    def missing(self) -> str | None:
        """What of the weights is not on this machine and where to get it; None if nothing is needed."""
        return None


def load_extractor(name: str, dataset: Dataset) -> Extractor:
    """Return the feature extractor of a name, for the images of a data set.

    Raises:
        ConfigError: there is none of that name, the message has the nearest one, or it is not for these data.
    """
    kind: type[Extractor] = load_class("extractors", name, Extractor)  # type: ignore[type-abstract]
    return kind(dataset)
