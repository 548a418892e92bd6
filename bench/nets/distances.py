"""Published distances of images: networks that a loss goes through and that nobody trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from tractbench.progress import Progress

Distance = Callable[[Tensor, Tensor], Tensor]
"""Distances ``[B]`` of images ``[B, C, H, W]`` in [-1, 1]; gradients go to both."""


class PublishedDistance(ABC):
    """A distance whose network has published weights."""

    @abstractmethod
    def missing(self) -> str | None:
        """Say where its files are fetched from, if they are not here."""

    @abstractmethod
    def fetch(self, progress: Progress) -> None:
        """Bring its files here; they are checked against their hashes.

        Raises:
            DownloadError: one cannot be fetched; the message says what to put where.
            DamagedFileError: one has another sha256.
        """

    @abstractmethod
    def load(self) -> nn.Module:
        """Return the network with its published weights, which :meth:`fetch` has brought; it is a ``Distance``."""

    @abstractmethod
    def untrained(self) -> nn.Module:
        """Return it with weights of any value, to see what it takes."""


def squared_distance(first: Tensor, second: Tensor) -> Tensor:
    """Return squared L2 ``[B]``, summed over pixels."""
    return (first - second).square().flatten(1).sum(1)


def stand_ins(distances: Mapping[str, PublishedDistance]) -> dict[str, Distance]:
    """Return squared L2 under each name, for where only what a method asks of a distance is looked at."""
    return dict.fromkeys(distances, squared_distance)
