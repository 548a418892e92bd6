"""The simplest feature space: an image's own pixels."""

from __future__ import annotations

from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.evaluation.extractors.base import Extractor


class PixelExtractor(Extractor):
    """Pixels in [-1, 1], float64, ``D = C H W``."""

    name = "pixel"
    hash = "pixel"

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __call__(self, grey: Tensor) -> Tensor:
        """Return the pixels of grey levels ``[B, C, H, W]`` uint8."""
        return self._dataset.decode(grey).double().flatten(1)
