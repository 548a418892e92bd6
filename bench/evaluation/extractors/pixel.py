"""The simplest feature space: an image's own pixels."""

from __future__ import annotations

from torch import Tensor

from tractbench.evaluation.extractors.base import Extractor


class PixelExtractor(Extractor):
    """Pixels in [-1, 1], float64, ``D = C H W``."""

    name = "pixel"
    hash = "pixel"

    def __call__(self, grey: Tensor) -> Tensor:
        """Return the pixels of grey levels ``[B, C, H, W]`` uint8."""
        return self.dataset.decode(grey).double().flatten(1)
