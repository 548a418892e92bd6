"""What the published U-Nets share: their topology, residual and attention blocks, and resampling.

The families differ in the `Style` of their blocks, in a few arguments of `plan`, in their noise embedding and in the
names under which they keep their layers, which are those of the published weights. The dropout that those weights were
trained with is left out: teachers are frozen and students are trained without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Mode = Literal["none", "up", "down"]


@dataclass(frozen=True)
class Style:
    """How the blocks of one family work.

    Attributes:
        eps: added to the variance in group norms.
        group_width: fewest channels of a norm group; there are at most 32 groups.
        head_width: channels of an attention head; 0 means a single head.
        interleaved: order of the qkv channels, (head, channel, part) if true and (head, part, channel) if not.
        scales: whether the embedding scales and shifts the second norm's output, or is added before that norm.
        residual_scale: factor of a sum of a branch and its shortcut.
        resampled_projection: whether shortcuts that resample also have a 1x1 convolution.
        taps: the resampling filter along one axis.
        keeps_filter: whether the filter is part of the state dict.
    """

    eps: float
    group_width: int
    head_width: int
    interleaved: bool
    scales: bool
    residual_scale: float = 1.0
    resampled_projection: bool = False
    taps: tuple[int, ...] = (1, 1)
    keeps_filter: bool = True

    def norm(self, channels: int) -> nn.GroupNorm:
        """Return the group norm of so many channels."""
        return nn.GroupNorm(min(32, channels // self.group_width), channels, self.eps)

    def heads(self, channels: int) -> int:
        """Return the number of attention heads of so many channels; 0 means that there is no attention."""
        return channels // self.head_width if self.head_width else 1

    def total(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Return the scaled sum of a shortcut and its branch."""
        total = shortcut + branch
        return total if self.residual_scale == 1 else total * self.residual_scale


class Step(NamedTuple):
    """One residual block's place: its name, channels, resampling, attention, and whether it joins a kept feature."""

    name: str
    inputs: int
    outputs: int
    mode: Mode = "none"
    attention: bool = False
    joins: bool = False


def plan(
    size: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    *,
    stem: int,
    only_last: bool = False,
) -> tuple[list[Step], list[Step]]:
    """Return the blocks of encoder and decoder in the order of their evaluation.

    Args:
        size: image height and width.
        width: channels at multiplier 1.
        multipliers: channel multiplier of each level, from the finest.
        blocks: encoder blocks of each level; the decoder has one more.
        attention: resolutions with attention; the first innermost block always has it.
        stem: channels that the first convolution returns.
        only_last: whether only the last decoder block of a level has attention.
    """
    encoder: list[Step] = []
    decoder: list[Step] = []
    h, kept = stem, [stem]
    for level, multiplier in enumerate(multipliers):
        r = size >> level
        if level:
            encoder.append(Step(f"{r}x{r}_down", h, h, "down"))
            kept.append(h)
        for i in range(blocks):
            encoder.append(Step(f"{r}x{r}_block{i}", h, width * multiplier, attention=r in attention))
            h = width * multiplier
            kept.append(h)
    for level, multiplier in reversed(list(enumerate(multipliers))):
        r = size >> level
        if decoder:
            decoder.append(Step(f"{r}x{r}_up", h, h, "up"))
        else:
            decoder += [Step(f"{r}x{r}_in0", h, h, attention=True), Step(f"{r}x{r}_in1", h, h)]
        for i in range(blocks + 1):
            attends = r in attention and (i == blocks or not only_last)
            inputs, h = h + kept.pop(), width * multiplier
            decoder.append(Step(f"{r}x{r}_block{i}", inputs, h, attention=attends, joins=True))
    return encoder, decoder


def encode(h: Tensor, e: Tensor, blocks: Iterable[nn.Module]) -> list[Tensor]:
    """Return the stem's output ``h`` and that of every encoder block, given the embedding ``e`` ``[B, E]``."""
    features = [h]
    for block in blocks:
        features.append(block(features[-1], e))
    return features


def decode(features: list[Tensor], e: Tensor, steps: Sequence[Step], blocks: Iterable[nn.Module]) -> Tensor:
    """Run the decoder on the encoder's features, which are consumed from the last to the first."""
    h = features[-1]
    for step, block in zip(steps, blocks, strict=True):
        h = block(torch.cat([h, features.pop()], dim=1) if step.joins else h, e)
    return h


def filter_of(taps: Sequence[int]) -> Tensor:
    """Return the normalised 2-D resampling filter ``[1, 1, k, k]`` of the taps along one axis."""
    line = torch.tensor(taps, dtype=torch.float32)
    return (line[:, None] * line / line.sum() ** 2)[None, None]


class Resample(nn.Module):
    """Halves or doubles images with a filter; the taps (1, 1) average 2x2 cells and repeat pixels."""

    resample_filter: Tensor

    def __init__(self, mode: Mode, style: Style) -> None:
        super().__init__()
        self.mode, self.taps = mode, tuple(style.taps)
        if style.keeps_filter:
            self.register_buffer("resample_filter", filter_of(self.taps))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` ``[B, C, H, W]`` at half or twice its height and width."""
        if self.taps == (1, 1):  # the same values as below without a depthwise convolution
            return functional.avg_pool2d(x, 2) if self.mode == "down" else functional.interpolate(x, scale_factor=2.0)
        return self.filtered(x, (len(self.taps) - 1) // 2)

    def filtered(self, x: Tensor, padding: int, bias: Tensor | None = None) -> Tensor:
        """Return ``x`` correlated with the filter at stride 2, or enlarged by the transposed correlation."""
        kernel = self.resample_filter.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        if self.mode == "down":
            return functional.conv2d(x, kernel, bias, stride=2, padding=padding, groups=x.shape[1])
        return functional.conv_transpose2d(x, 4 * kernel, bias, stride=2, padding=padding, groups=x.shape[1])


class ResampledConv(Resample):
    """Resampling followed by a same-padded convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, mode: Mode, style: Style) -> None:
        super().__init__(mode, style)
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution ``[B, outputs, H', W']`` of the resampled ``x`` ``[B, inputs, H, W]``."""
        return functional.conv2d(super().forward(x), self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class FusedDownConv(ResampledConv):
    """Convolution followed by the filter, without a border between them; differs from the unfused order at edges."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the halved convolution ``[B, outputs, H / 2, W / 2]`` of ``x`` ``[B, inputs, H, W]``."""
        padding = self.weight.shape[-1] // 2 + (len(self.taps) - 1) // 2
        return self.filtered(functional.conv2d(x, self.weight, padding=padding), 0, self.bias)


class Residual(NamedTuple):
    """The layers of a residual block in the order of their evaluation; a block keeps them under names of its own."""

    norm_in: nn.Module
    conv_in: nn.Module
    affine: nn.Module
    norm_out: nn.Module
    conv_out: nn.Module
    skip: nn.Module


def residual_layers(step: Step, embedding: int, style: Style) -> Residual:
    """Return new layers of the residual block at a step for embeddings ``[B, embedding]``."""
    inputs, outputs, mode = step.inputs, step.outputs, step.mode
    skip: nn.Module = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
    if mode != "none":
        skip = ResampledConv(inputs, outputs, 1, mode, style) if style.resampled_projection else Resample(mode, style)
    return Residual(
        style.norm(inputs),
        nn.Conv2d(inputs, outputs, 3, padding=1) if mode == "none" else ResampledConv(inputs, outputs, 3, mode, style),
        nn.Linear(embedding, outputs * (1 + style.scales)),
        style.norm(outputs),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        skip,
    )


def residual(layers: Residual, x: Tensor, e: Tensor, style: Style) -> Tensor:
    """Apply a residual block to ``x`` ``[B, C, H, W]`` given the embedding ``e`` ``[B, E]``."""
    a = layers.conv_in(functional.silu(layers.norm_in(x)))
    condition = layers.affine(e)[:, :, None, None]  # [B, C' or 2 C', 1, 1]
    if style.scales:
        scale, shift = condition.chunk(2, dim=1)
        a = torch.addcmul(shift, layers.norm_out(a), 1 + scale)
    else:
        a = layers.norm_out(a + condition)
    return style.total(layers.skip(x), layers.conv_out(functional.silu(a)))


class Attention(NamedTuple):
    """The layers of an attention block."""

    norm: nn.Module
    qkv: nn.Module
    out: nn.Module


def attention_layers(channels: int, style: Style) -> Attention:
    """Return new layers of an attention block."""
    return Attention(style.norm(channels), nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1))


def attend(qkv: Tensor, heads: int, interleaved: bool) -> Tensor:
    """Return the attended values ``[B, C, H, W]`` over all pixels.

    Args:
        qkv: queries, keys and values, ``[B, 3 C, H, W]``.
        heads: number of heads.
        interleaved: whether the channels of ``qkv`` are (head, channel, part) instead of (head, part, channel).
    """
    batch, _, height, width = qkv.shape
    pixels = height * width
    if interleaved:
        parts = qkv.reshape(batch, heads, -1, 3, pixels).permute(3, 0, 1, 4, 2)
    else:
        parts = qkv.reshape(batch, heads, 3, -1, pixels).permute(2, 0, 1, 4, 3)
    q, k, v = parts.contiguous()  # each [B, heads, H W, C / heads], as the fused kernels want them
    out = functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(2, 3).reshape(batch, -1, height, width)


def attention(layers: Attention, x: Tensor, style: Style) -> Tensor:
    """Apply an attention block to ``x`` ``[B, C, H, W]``."""
    values = attend(layers.qkv(layers.norm(x)), style.heads(x.shape[1]), style.interleaved)
    return style.total(x, layers.out(values))


def one_hot(labels: Tensor | None, classes: int, like: Tensor) -> Tensor:
    """Return labels ``[B]`` as ``[B, classes]`` in the dtype of ``like``; missing labels are a zero row."""
    if labels is None:
        return like.new_zeros(1, classes)
    return functional.one_hot(labels, classes).to(like.dtype)


def initialise(net: nn.Module, draw: Callable[[str, Tensor, Tensor | None], None]) -> None:
    """Set norms to the identity and filters to their values, and call ``draw(name, weight, bias)`` for other layers."""
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, Resample) and hasattr(module, "resample_filter"):
                module.resample_filter.copy_(filter_of(module.taps))
            if isinstance(module, nn.GroupNorm):
                module.reset_parameters()
            elif isinstance(weight := getattr(module, "weight", None), Tensor):
                draw(name, weight, getattr(module, "bias", None))
