"""CLIP, ViT-L/14 (Radford et al. 2021): the space of FD-CLIP (Kynkäänniemi et al. 2023) and, nearly, of CMMD."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from tractbench.evaluation.extractors.vision_transformer import SIZE, Published, VisionTransformer

VISION = ("vision_model.", "visual_projection.")
"""Names of the tensors of images; the file holds the text encoder's too."""

BUFFER = "vision_model.embeddings.position_ids"
"""Counts from 0, kept in the file by the release that wrote it."""


class CLIP(VisionTransformer):
    """The image embedding, projected into the space shared with text, not normalised, ``D = 768``."""

    name = "clip"
    weights: ClassVar[Published] = Published(
        repository="openai/clip-vit-large-patch14",
        revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
        sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        size=1_710_540_580,
        licence="MIT",
        summary="CLIP ViT-L/14, image embedding",
    )
    mean = (0.48145466, 0.4578275, 0.40821073)
    std = (0.26862954, 0.26130258, 0.27577711)

    projection: ClassVar[int] = 768

    def architecture(self) -> tuple[Any, object]:
        """Return the network of images alone."""
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        return CLIPVisionModelWithProjection, CLIPVisionConfig(
            hidden_size=self.width,
            intermediate_size=4 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            patch_size=self.patch,
            image_size=SIZE,
            projection_dim=self.projection,
            hidden_act="quick_gelu",
        )

    def tensors(self, held: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of images."""
        return {name: tensor for name, tensor in held.items() if name.startswith(VISION) and name != BUFFER}

    def features(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the projected image embedding."""
        found: Tensor = network(pixel_values=images).image_embeds
        return found
