"""Samples on their way into a scorer: quantised, counted, hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.doubts import Doubts
from tractbench.evaluation.protocols import Protocol
from tractbench.evaluation.sample_set import SampleSet
from tractbench.progress import Task


class GreyRows:
    """Samples as grey levels, taken in exact numbers and hashed on the way.

    Args:
        samples: the samples, floats or grey levels.
        dataset: the data that they imitate, whose levels they must have.
        protocol: how floats become grey levels.
        task: told of every image.

    Attributes:
        digest: of the shape and of all grey levels taken so far.
        doubts: what has looked at them.
    """

    def __init__(self, samples: SampleSet, dataset: Dataset, protocol: Protocol, task: Task) -> None:
        self._samples, self._dataset, self._protocol, self._task = samples, dataset, protocol, task
        self._batches = samples.read()
        self._rest = torch.empty((0, *samples.shape), dtype=torch.uint8)
        self.digest = hashlib.sha256(f"{samples.shape}".encode())
        self.doubts = Doubts(dataset)

    def take(self, count: int) -> Iterator[Tensor]:
        """Yield the next ``count`` images, in pieces ``[B, C, H, W]`` uint8.

        Raises:
            ConfigError: a sample has a grey level that the data do not have.
            DamagedFileError: there are fewer samples than the set says.
        """
        while count:
            if not len(self._rest):
                self._rest = self._next()
            piece, self._rest = self._rest[:count], self._rest[count:]
            count -= len(piece)
            self.digest.update(piece.contiguous().numpy().tobytes())
            self.doubts.look(piece)
            yield piece
            self._task.advance(len(piece))

    def _next(self) -> Tensor:
        batch = next(self._batches, None)
        if batch is None:
            raise DamagedFileError(f"{self._samples.source} holds fewer samples than it says; make or fetch it again")
        grey = self._protocol.quantised(batch, self._dataset) if self._samples.floats else batch
        if self._dataset.distribution is None and int(grey.max()) >= self._dataset.levels:
            raise ConfigError(
                f"{self._samples.source} has grey level {int(grey.max())}, {self._dataset.name} ends at "
                f"{self._dataset.levels - 1}; save its own levels, or floats in [-1, 1]"
            )
        return grey
