"""ADM (Dhariwal & Nichol 2021) as published with EDM (Karras et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tractbench.nets import unet
from tractbench.nets.embedding import with_extra
from tractbench.nets.song_unet import Block
from tractbench.nets.unet import Style, one_hot


class DhariwalUNet(nn.Module):
    """U-Net over a noise label and, if it has classes, labels; its state dict has the names of EDM's networks.

    Attention heads have 64 channels; blocks with fewer channels have no attention.

    Args:
        channels: image channels.
        size: image height and width.
        width: channels at multiplier 1, even; also the width of the noise label's cosines and sines.
        embedding: width of the noise embedding.
        multipliers: channel multiplier of each level, from the finest.
        blocks: residual blocks of each level.
        attention: resolutions with attention.
        classes: number of classes; 0 makes the network unconditional and labels are then ignored.
        augment: width of the augmentation vector; 0 means that the vector is ignored.
        outputs: output channels; 0 means those of the image.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int,
        embedding: int,
        multipliers: Sequence[int],
        blocks: int,
        attention: Sequence[int],
        classes: int = 0,
        augment: int = 0,
        outputs: int = 0,
    ) -> None:
        super().__init__()
        style = Style(eps=1e-5, group_width=4, head_width=64, interleaved=True, scales=True)
        stem = width * multipliers[0]
        self.encoder, self.decoder = unet.plan(size, width, multipliers, blocks, attention, stem=stem)
        self.width, self.classes, self.top = width, classes, f"{size}x{size}"
        self.map_augment = nn.Linear(augment, width, bias=False) if augment else None
        self.embedding = embedding
        self.map_layer0 = nn.Linear(width, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)
        self.map_label = nn.Linear(classes, embedding, bias=False) if classes else None
        self.enc = nn.ModuleDict({f"{self.top}_conv": nn.Conv2d(channels, stem, 3, padding=1)})
        self.enc.update({step.name: Block(step, embedding, style) for step in self.encoder})
        self.dec = nn.ModuleDict({step.name: Block(step, embedding, style) for step in self.decoder})
        last = self.decoder[-1].outputs
        self.out_norm = style.norm(last)
        self.out_conv = nn.Conv2d(last, outputs or channels, 3, padding=1)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw uniform weights and biases of range 1/sqrt(fan_in), zero the last layers of branches."""

        def draw(name: str, weight: Tensor, bias: Tensor | None) -> None:
            tensors = [weight] if bias is None else [weight, bias]
            bound = weight[0].numel() ** -0.5
            for tensor in tensors:
                if name == "map_label":
                    tensor.normal_(generator=generator)
                elif name.endswith(("conv1", "proj", "out_conv", "map_augment")):
                    tensor.zero_()
                else:
                    tensor.uniform_(-bound, bound, generator=generator)

        unet.initialise(self, draw)

    def embed(
        self, noise_label: Tensor, labels: Tensor | None, augment: Tensor | None, extra: Tensor | None = None
    ) -> Tensor:
        """Return the activated embedding ``[B, E]``; the arguments are those of ``forward``."""
        raw = cosines_and_sines(noise_label, self.width)
        if self.map_augment is not None and augment is not None:
            raw = raw + self.map_augment(augment)
        e = self.map_layer1(functional.silu(self.map_layer0(raw)))
        if self.map_label is not None:
            e = e + self.map_label(one_hot(labels, self.classes, raw))
        return functional.silu(with_extra(e, extra))

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        labels: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """Return the raw prediction ``[B, outputs, H, W]``.

        Args:
            x: scaled noisy images ``[B, C, H, W]``.
            noise_label: the preconditioning's c_noise, ``[B]`` or ``[1]``.
            labels: class indices ``[B]``; without them the one-hot label is zero.
            augment: augmentation vectors ``[B, augment]``; without them they are zero.
            extra: added to the embedding before its last activation, ``[B, embedding]``.
        """
        e = self.embed(noise_label, labels, augment, extra)
        features = unet.encode(self.enc[f"{self.top}_conv"](x), e, [self.enc[step.name] for step in self.encoder])
        h = unet.decode(features, e, self.decoder, [self.dec[step.name] for step in self.decoder])
        out: Tensor = self.out_conv(functional.silu(self.out_norm(h)))
        return out


def cosines_and_sines(position: Tensor, width: int) -> Tensor:
    """Embed ``position`` ``[B]`` as ``[cos, sin]`` of ``width / 2`` frequencies from 1 towards 1e-4, ``[B, width]``."""
    half = width // 2
    index = torch.arange(half, device=position.device, dtype=position.dtype)
    angle = position[:, None] * (1 / 10000) ** (index / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)
