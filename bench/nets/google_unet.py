"""The U-Net of progressive distillation's published teachers (Salimans & Ho 2022), which TRACT builds on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tractbench.nets import unet
from tractbench.nets.embedding import log_snr_to_unit, sinusoidal, with_extra
from tractbench.nets.unet import Attention, Residual, Step, Style, one_hot


class ResidualBlock(nn.Module):
    """A residual block under this family's layer names."""

    def __init__(self, step: Step, embedding: int, style: Style) -> None:
        super().__init__()
        self.style = style
        layers = unet.residual_layers(step, embedding, style)
        self.norm1, self.conv1, affine, self.norm2, self.conv2, self.skip = layers
        self.time = nn.Sequential(nn.SiLU(), affine)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return the block's output for ``x`` ``[B, C, H, W]`` and the embedding ``e`` ``[B, E]``."""
        layers = Residual(self.norm1, self.conv1, self.time, self.norm2, self.conv2, self.skip)
        return unet.residual(layers, x, e, self.style)


class AttentionBlock(nn.Module):
    """An attention block under this family's layer names."""

    def __init__(self, channels: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.norm, self.qkv, self.out = unet.attention_layers(channels, style)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for ``x`` ``[B, C, H, W]``."""
        return unet.attention(Attention(self.norm, self.qkv, self.out), x, self.style)


class Stage(nn.Module):
    """A residual block that does not resample, and attention if its step asks for it."""

    def __init__(self, step: Step, embedding: int, style: Style) -> None:
        super().__init__()
        self.resblocks = ResidualBlock(step, embedding, style)
        self.attention = AttentionBlock(step.outputs, style) if step.attention else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return the stage's output for ``x`` ``[B, C, H, W]`` and the embedding ``e`` ``[B, E]``."""
        out: Tensor = self.attention(self.resblocks(x, e))
        return out


class GoogleUNet(nn.Module):
    """U-Net over logSNR and, if it has classes, labels; its state dict has the names of the TRACT release.

    Args:
        channels: image channels.
        size: image height and width.
        width: channels at multiplier 1, even.
        embedding: width of the noise embedding.
        multipliers: channel multiplier of each level, from the finest.
        blocks: residual blocks of each level.
        attention: resolutions with attention.
        head_width: channels of an attention head; 0 means a single head.
        classes: number of classes; 0 makes the network unconditional and labels are then ignored.
        outputs: output channels, twice those of the image to predict x and eps; 0 means those of the image.
        eps: added to the variance in group norms.
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
        head_width: int = 0,
        classes: int = 0,
        outputs: int = 0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        style = Style(eps=eps, group_width=1, head_width=head_width, interleaved=False, scales=True, keeps_filter=False)

        def block(step: Step) -> nn.Module:
            return (Stage if step.mode == "none" else ResidualBlock)(step, embedding, style)

        encoder, decoder = unet.plan(size, width, multipliers, blocks, attention, stem=width)
        self.decoder = decoder
        self.width, self.classes, self.embedding = width, classes, embedding
        self.time = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.class_emb = nn.Linear(classes, embedding) if classes else None
        self.down = nn.ModuleList([nn.Conv2d(channels, width, 3, padding=1), *map(block, encoder)])
        self.mid = nn.ModuleList(map(block, decoder[:2]))
        self.up = nn.ModuleList(map(block, decoder[2:]))
        last = decoder[-1].outputs
        self.out = nn.Sequential(style.norm(last), nn.SiLU(), nn.Conv2d(last, outputs or channels, 3, padding=1))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw truncated normal weights of variance 1/fan_in; biases and the last layers of branches are zero."""

        def draw(name: str, weight: Tensor, bias: Tensor | None) -> None:
            if name.endswith(("conv2", "attention.out")) or name == "out.2":
                weight.zero_()
            else:
                std = weight[0].numel() ** -0.5 / 0.8796256610342398  # that of a unit normal cut off at 2
                nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
            if bias is not None:
                bias.zero_()

        unet.initialise(self, draw)

    def forward(
        self, x: Tensor, noise_label: Tensor, labels: Tensor | None = None, *, extra: Tensor | None = None
    ) -> Tensor:
        """Return the prediction ``[B, outputs, H, W]``.

        Args:
            x: noisy images ``[B, C, H, W]``.
            noise_label: logSNR, ``[B]`` or ``[1]``.
            labels: class indices ``[B]``; a conditional network knows no missing label.
            extra: added to the embedding of the noise level, ``[B, embedding]``.
        """
        e = self.time(sinusoidal(1000 * log_snr_to_unit(noise_label), self.width))
        if self.class_emb is not None:
            if labels is None:
                raise ValueError("a class-conditional network needs labels")
            e = e + self.class_emb(one_hot(labels, self.classes, x))
        e = with_extra(e, extra)
        features = unet.encode(self.down[0](x), e, list(self.down)[1:])
        out: Tensor = self.out(unet.decode(features, e, self.decoder, [*self.mid, *self.up]))
        return out
