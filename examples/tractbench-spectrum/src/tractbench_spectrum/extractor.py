"""Spectrum: an image's power by spatial frequency, averaged over directions (Durall et al. 2020, arXiv 2003.01826)."""

from __future__ import annotations

import torch
from torch import Tensor

from tractbench.evaluation.extractors.base import Extractor


class Spectrum(Extractor):
    """Logarithms of the mean power in rings of frequencies 0, 1, 2, ... periods an image, for each channel."""

    name = "spectrum"
    hash = "log of mean power in rings of frequency, floor of rounding"

    def __call__(self, grey: Tensor) -> Tensor:
        """Return features ``[B, C R]``, float64, of grey levels ``[B, C, H, W]`` uint8; R rings."""
        power = ring_power(self.dataset.decode(grey).double())
        rounding = (2 / (self.dataset.levels - 1)) ** 2 / 12  # the power of what quantised images lose
        return torch.log(power + rounding).flatten(1)


def ring_power(images: Tensor) -> Tensor:
    """Return the mean power of each ring of frequencies ``[B, C, R]`` of images ``[B, C, H, W]``."""
    power = torch.fft.fft2(images, norm="ortho").abs().square()
    rings = torch.nn.functional.one_hot(frequencies(*images.shape[-2:]).flatten()).to(power.dtype)
    return power.flatten(2) @ (rings / rings.sum(0))


def frequencies(height: int, width: int) -> Tensor:
    """Return the ring of each Fourier coefficient ``[H, W]``: periods over the image, rounded."""
    down, right = (torch.fft.fftfreq(size, 1 / size, dtype=torch.float64) for size in (height, width))
    return torch.hypot(down[:, None], right[None, :]).round().long()
