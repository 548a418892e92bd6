"""The three ways in which published figures brought images to the size that the Inception network takes.

Each takes uint8 images ``[B, 3, H, W]`` of 256 grey levels and returns float32 ``[B, 3, 299, 299]`` about in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate

SIZE = 299
"""Height and width that the Inception network takes."""


def tensorflow_bilinear(images: Tensor) -> Tensor:
    """Resize as TensorFlow 1 did: bilinear, corner pixels not aligned, no half-pixel centres; then (x - 128) / 128."""
    images = images.float()
    for axis in (3, 2):
        last = images.shape[axis] - 1
        scale = torch.tensor(images.shape[axis] / SIZE, dtype=torch.float32)  # float32, like TensorFlow's kernel
        position = (torch.arange(SIZE, dtype=torch.float32) * scale).to(images.device)
        low = position.long()
        weight = (position - low).unsqueeze(-1) if axis == 2 else position - low
        first = images.index_select(axis, low)
        second = images.index_select(axis, (low + 1).clamp(max=last))
        images = first + (second - first) * weight
    return (images - 128) / 128


def torch_bilinear(images: Tensor) -> Tensor:
    """Resize as ``F.interpolate`` does: bilinear about half-pixel centres, not antialiased; scaled to [-1, 1]."""
    resized = interpolate(images.float() / 255, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return 2 * resized - 1


def clean_bicubic(images: Tensor) -> Tensor:
    """Resize as PIL does in floats: antialiased bicubic, overshoots clipped to 0..255; then (x - 128) / 128."""
    resized = interpolate(images.float(), size=(SIZE, SIZE), mode="bicubic", align_corners=False, antialias=True)
    return (resized.clamp(0, 255) - 128) / 128


RESIZES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tensorflow": tensorflow_bilinear,
    "torch": torch_bilinear,
    "clean": clean_bicubic,
}
