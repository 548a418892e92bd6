"""A feature space and what is known of a data set's images in it, computed once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.evaluation.fidelity import held_out_images
from tractbench.evaluation.mmd import kernel_mean
from tractbench.evaluation.neighbours import RealImages
from tractbench.evaluation.reference import (
    BATCH,
    CACHED,
    Extract,
    Reference,
    cached_statistics,
    read_statistics,
    write_statistics,
)
from tractbench.io.sealed import keep_sealed
from tractbench.progress import Progress

FLOORS = ("density", "coverage", "authenticity")
"""What held-out images score; their C_T is 0 by definition."""


@dataclass(frozen=True)
class Space:
    """A feature space and what is known of the training images in it; everything is computed when it is needed.

    Attributes:
        name: what it is called.
        key: sha256 of all that decides the training images' features.
        extract: returns features of images.
        load: returns the training images' statistics.
        dataset: the data.
        progress: draws what is computed.
    """

    name: str
    key: str
    extract: Extract
    load: Callable[[], Reference]
    dataset: Dataset
    progress: Progress

    @cached_property
    def reference(self) -> Reference:
        """Mean and covariance of the training images' features, and those of at most 50,000 themselves."""
        return self.load()

    @property
    def rows(self) -> Tensor:
        """The features of at most 50,000 training images, float32."""
        assert self.reference.features is not None  # metrics that need them are left out where they were imported
        return self.reference.features

    @cached_property
    def among(self) -> float:
        """The kernel's mean among the training images."""
        path = self._kept("mmd")
        keep_sealed((path,), lambda: write_statistics(path, {"mean": _scalar(self._among())}), self.progress)
        return float(read_statistics(path, ("mean",), CACHED)["mean"])

    def _among(self) -> float:
        return kernel_mean(self.rows, self.rows)

    @cached_property
    def real(self) -> RealImages:
        """The training images' neighbours and cells, and the held-out images' place among them."""
        kept = self._neighbours
        return RealImages(
            self.rows,
            kept["nearest"],
            kept["radius"],
            kept["centres"],
            kept["cell"].long(),
            kept["held_out"],
            kept["held_out_cell"].long(),
        )

    @property
    def floors(self) -> dict[str, float]:
        """What held-out images score against the training images, by metric."""
        return {name: float(self._neighbours[name]) for name in FLOORS if not self._neighbours[name].isnan()}

    @cached_property
    def _neighbours(self) -> Mapping[str, Tensor]:
        path = self._kept("neighbours")
        keep_sealed((path,), lambda: write_statistics(path, self._find_neighbours()), self.progress)
        names = ("nearest", "radius", "centres", "cell", "held_out", "held_out_cell", *FLOORS)
        return read_statistics(path, names, CACHED)

    def _find_neighbours(self) -> dict[str, Tensor]:
        held_out = self._held_out()
        with self.progress.task(f"neighbours, {self.name}", len(self.rows) + len(held_out), "image") as task:
            found = RealImages.of(self.rows, held_out, task)
            floors = found.scores(held_out, task) if len(held_out) else dict.fromkeys(FLOORS, float("nan"))
        names = ("nearest", "radius", "centres", "cell", "held_out", "held_out_cell")
        tensors = {name: getattr(found, name).double() for name in names}
        return tensors | {name: _scalar(floors[name]) for name in FLOORS}

    def _held_out(self) -> Tensor:
        """Return the held-out images' features, float32; none where there are no such images."""
        count = held_out_images(self.dataset)
        found = [self.rows[:0]]
        with self.progress.task(f"features of held-out images, {self.name}", count, "image") as task:
            for batch in torch.split(self.dataset.held_out, BATCH) if count else ():
                found.append(self.extract(batch).float())
                task.advance(len(batch))
        return torch.cat(found)

    def _kept(self, what: str) -> Path:
        return cached_statistics(f"{self.key}.{what}")


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
