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
    def operations(self) -> int:
        """Operations of an image, two a multiplication and sum; 0 where nobody counts them."""
        return 0

    @classmethod
    def missing(cls) -> str | None:
        """Say what of the weights has to be fetched first, and where to put it; None if nothing.

        Raises:
            ConfigError: something has to be installed first.
        """
        return None


def extractor_class(name: str) -> type[Extractor]:
    """Return the class of a name.

    Raises:
        ConfigError: there is none of that name, the message has the nearest one, or it cannot be loaded.
    """
    return load_class("extractors", name, Extractor)  # type: ignore[type-abstract]


def load_extractor(name: str, dataset: Dataset) -> Extractor:
    """Return the feature extractor of a name, for the images of a data set.

    Raises:
        ConfigError: there is none of that name, the message has the nearest one, or it is not for these data.
    """
    return extractor_class(name)(dataset)
