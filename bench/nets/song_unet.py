"""DDPM++ and NCSN++ (Song et al. 2021) as published with EDM (Karras et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tractbench.nets import unet
from tractbench.nets.embedding import with_extra
from tractbench.nets.unet import Attention, FusedDownConv, Residual, Step, Style, one_hot


class Block(nn.Module):
    """A residual block and, if its step asks for it, attention, under the layer names of EDM's networks."""

    def __init__(self, step: Step, embedding: int, style: Style) -> None:
        super().__init__()
        self.style = style
        layers = unet.residual_layers(step, embedding, style)
        self.norm0, self.conv0, self.affine, self.norm1, self.conv1, self.skip = layers
        self.attends = step.attention and style.heads(step.outputs) > 0
        if self.attends:
            self.norm2, self.qkv, self.proj = unet.attention_layers(step.outputs, style)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Return the block's output for ``x`` ``[B, C, H, W]`` and the activated embedding ``e`` ``[B, E]``."""
        layers = Residual(self.norm0, self.conv0, self.affine, self.norm1, self.conv1, self.skip)
        x = unet.residual(layers, x, e, self.style)
        return unet.attention(Attention(self.norm2, self.qkv, self.proj), x, self.style) if self.attends else x


class Positional(nn.Module):
    """Sines, then cosines, of fixed frequencies from 1 to 1e-4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, position: Tensor) -> Tensor:
        """Return the embedding ``[B, width]`` of ``position`` ``[B]``."""
        half = self.width // 2
        index = torch.arange(half, device=position.device, dtype=position.dtype)
        angle = position[:, None] * (1 / 10000) ** (index / (half - 1))
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Fourier(nn.Module):
    """Sines, then cosines, of random frequencies that belong to the weights."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(width // 2))

    def forward(self, position: Tensor) -> Tensor:
        """Return the embedding ``[B, width]`` of ``position`` ``[B]``."""
        angle = position[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class SongUNet(nn.Module):
    """U-Net over a noise label and, if it has classes, labels; its state dict has the names of EDM's networks.

    Args:
        channels: image channels.
        size: image height and width.
        width: channels at multiplier 1.
        embedding: width of the noise embedding.
        multipliers: channel multiplier of each level, from the finest.
        blocks: residual blocks of each level.
        attention: resolutions with attention.
        noise_width: width of the sines and cosines of the noise label, even.
        fourier: whether their frequencies are random, as in NCSN++.
        auxiliary: whether the encoder also adds the reduced image to each level, as in NCSN++.
        taps: resampling filter along one axis.
        classes: number of classes; 0 makes the network unconditional and labels are then ignored.
        augment: width of the augmentation vector; 0 means that the vector is ignored.
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
        noise_width: int,
        fourier: bool = False,
        auxiliary: bool = False,
        taps: Sequence[int] = (1, 1),
        classes: int = 0,
        augment: int = 0,
    ) -> None:
        super().__init__()
        style = Style(
            eps=1e-6,
            group_width=4,
            head_width=0,
            interleaved=True,
            scales=False,
            residual_scale=math.sqrt(0.5),
            resampled_projection=True,
            taps=tuple(taps),
        )
        self.encoder, self.decoder = unet.plan(size, width, multipliers, blocks, attention, stem=width, only_last=True)
        self.top = f"{size}x{size}"
        self.auxiliary, self.residual_scale, self.classes = auxiliary, style.residual_scale, classes
        self.map_noise = Fourier(noise_width) if fourier else Positional(noise_width)
        self.map_label = nn.Linear(classes, noise_width) if classes else None
        self.map_augment = nn.Linear(augment, noise_width, bias=False) if augment else None
        self.embedding = embedding
        self.map_layer0 = nn.Linear(noise_width, embedding)
        self.map_layer1 = nn.Linear(embedding, embedding)

        self.enc = nn.ModuleDict({f"{self.top}_conv": nn.Conv2d(channels, width, 3, padding=1)})
        reduced = channels
        for step in self.encoder:
            self.enc[step.name] = Block(step, embedding, style)
            if auxiliary and step.mode == "down":
                self.enc[auxiliary_name(step)] = FusedDownConv(reduced, step.outputs, 3, "down", style)
                reduced = step.outputs
        self.dec = nn.ModuleDict({step.name: Block(step, embedding, style) for step in self.decoder})
        last = self.decoder[-1].outputs
        self.dec[f"{self.top}_aux_norm"] = style.norm(last)
        self.dec[f"{self.top}_aux_conv"] = nn.Conv2d(last, channels, 3, padding=1)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw Xavier-uniform weights, small in the last layers of branches, and frequencies; zero the biases."""

        def draw(name: str, weight: Tensor, bias: Tensor | None) -> None:
            gain = math.sqrt(0.2) if name.endswith("qkv") else 1.0
            if name.endswith(("conv1", "proj", "aux_conv")):
                gain = 1e-5
            nn.init.xavier_uniform_(weight, gain, generator=generator)
            if bias is not None:
                bias.zero_()

        unet.initialise(self, draw)
        if isinstance(self.map_noise, Fourier):
            self.map_noise.freqs.normal_(generator=generator).mul_(16)

    def embed(
        self, noise_label: Tensor, labels: Tensor | None, augment: Tensor | None, extra: Tensor | None = None
    ) -> Tensor:
        """Return the activated embedding ``[B, E]``; the arguments are those of ``forward``."""
        e = self.map_noise(noise_label)
        if self.map_label is not None:
            e = e + self.map_label(one_hot(labels, self.classes, e) * math.sqrt(self.classes))
        if self.map_augment is not None and augment is not None:
            e = e + self.map_augment(augment)
        return functional.silu(with_extra(self.map_layer1(functional.silu(self.map_layer0(e))), extra))

    def forward(
        self,
        x: Tensor,
        noise_label: Tensor,
        labels: Tensor | None = None,
        *,
        augment: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """Return the raw prediction ``[B, C, H, W]``.

        Args:
            x: scaled noisy images ``[B, C, H, W]``.
            noise_label: the preconditioning's c_noise, ``[B]`` or ``[1]``.
            labels: class indices ``[B]``; without them the one-hot label is zero.
            augment: augmentation vectors ``[B, augment]``; without them they are zero.
            extra: added to the embedding before its last activation, ``[B, embedding]``.
        """
        e = self.embed(noise_label, labels, augment, extra)
        h, reduced = self.enc[f"{self.top}_conv"](x), x
        features = [h]
        for step in self.encoder:
            h = self.enc[step.name](h, e)
            if self.auxiliary and step.mode == "down":
                h = reduced = (h + self.enc[auxiliary_name(step)](reduced)) * self.residual_scale
            features.append(h)
        h = unet.decode(features, e, self.decoder, [self.dec[step.name] for step in self.decoder])
        out: Tensor = self.dec[f"{self.top}_aux_conv"](functional.silu(self.dec[f"{self.top}_aux_norm"](h)))
        return out


def auxiliary_name(step: Step) -> str:
    """Return the name of the layer that reduces the image beside the step."""
    return step.name.replace("down", "aux_residual")
