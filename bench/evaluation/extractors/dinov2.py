"""DINOv2, ViT-L/14 (Oquab et al. 2023): the feature space that Stein et al. 2023 find nearest to human judgement."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tractbench.evaluation.extractors.vision_transformer import SIZE, Published, VisionTransformer

OFFSET = 0.1
"""Added to the number of patches a side when position embeddings are resampled, as DINOv2's published code does."""


class DINOv2(VisionTransformer):
    """The class token behind the last layer norm, ``D = 1024``; ``fd_dinov2`` is FD-DINOv2."""

    name = "dinov2"
    weights: ClassVar[Published] = Published(
        repository="facebook/dinov2-large",
        revision="47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        sha256="399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
        size=1_217_522_888,
        licence="Apache-2.0",
        summary="DINOv2 ViT-L/14, class token",
    )
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def architecture(self) -> tuple[Any, object]:
        """Return the network whose position embeddings are those of 224 x 224."""
        from transformers import Dinov2Config, Dinov2Model

        return Dinov2Model, Dinov2Config(
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            mlp_ratio=4,
            patch_size=self.patch,
            image_size=SIZE,
            layerscale_value=1.0,
            use_swiglu_ffn=False,
        )

    def tensors(self, held: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resample the position embeddings once, in the way of DINOv2's own code.

        The network was trained at 518 x 518. ``transformers`` would resample them at each call to a size, the published
        code by a factor, which leaves other values: those are what figures in papers were made with.
        """
        name = "embeddings.position_embeddings"
        return held | {name: resampled(held[name], SIZE // self.patch)}

    def features(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the class token behind the last layer norm."""
        found: Tensor = network(pixel_values=images).pooler_output
        return found


def resampled(embeddings: Tensor, side: int) -> Tensor:
    """Return position embeddings ``[1, 1 + side * side, D]`` of others ``[1, 1 + N * N, D]``, the class token's first.

    Bicubic by the factor (side + 0.1) / N, as ``interpolate_pos_encoding`` of facebookresearch/dinov2 has it.
    """
    token, patches = embeddings[:, :1].float(), embeddings[:, 1:].float()
    length, width = patches.shape[1:]
    before = round(length**0.5)
    if before == side:
        return embeddings
    grid = patches.reshape(1, before, before, width).permute(0, 3, 1, 2)
    factor = float((side + OFFSET) / before)
    moved = interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([token, moved.permute(0, 2, 3, 1).reshape(1, side * side, width)], 1)
