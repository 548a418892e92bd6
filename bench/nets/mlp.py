"""A residual MLP for images so small that convolutions do not pay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tractbench.nets.embedding import log_snr_to_unit, sinusoidal, with_extra


class MLPBlock(nn.Module):
    """Pre-norm residual block whose norm is scaled and shifted by the noise embedding."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Add the block's output to ``h`` ``[B, width]`` given the embedding ``e`` ``[B, embedding]``."""
        scale, shift = self.modulation(e).chunk(2, dim=1)
        a = torch.addcmul(shift, self.norm(h), 1 + scale)
        out: Tensor = h + self.outer(nn.functional.silu(self.inner(a)))
        return out


class MLP(nn.Module):
    """Residual MLP over the flattened image, conditioned on logSNR and, if it has classes, on labels.

    Args:
        channels: image channels C.
        size: image height and width.
        width: hidden width.
        blocks: number of residual blocks.
        embedding: width of the noise embedding.
        c_noise: 1 if the noise level is given as EDM's ln(sigma) / 4 instead of logSNR.
        classes: number of classes; 0 makes the network unconditional and labels are then ignored.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int,
        blocks: int,
        embedding: int,
        c_noise: int = 0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        pixels = channels * size * size
        self.embedding = embedding
        self.c_noise = bool(c_noise)
        self.time = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(classes, embedding) if classes else None
        self.input = nn.Linear(pixels, width)
        self.blocks = nn.ModuleList(MLPBlock(width, embedding) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, pixels)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights of variance 1/fan_in, zero the biases, the blocks' last layers and the modulations."""
        for name, parameter in self.named_parameters():
            with torch.no_grad():
                if "norm" in name and name.endswith("weight"):
                    parameter.fill_(1.0)
                elif name.endswith("bias") or "outer" in name or "modulation" in name:
                    parameter.zero_()
                else:
                    fan_in = 1 if name.startswith("label") else parameter.shape[1]
                    parameter.normal_(std=fan_in**-0.5, generator=generator)

    def forward(
        self, x: Tensor, noise_level: Tensor, labels: Tensor | None = None, *, extra: Tensor | None = None
    ) -> Tensor:
        """Return the prediction for ``x`` ``[B, C, H, W]`` at ``noise_level`` ``[B]``, same shape as ``x``.

        ``extra`` ``[B, embedding]`` is added to the embedding of the noise level.
        """
        log_snr = -8 * noise_level if self.c_noise else noise_level  # c_noise = ln(sigma) / 4, logSNR = -2 ln(sigma)
        e = self.time(sinusoidal(1000 * log_snr_to_unit(log_snr), self.embedding))
        if self.label is not None:
            if labels is None:
                raise ValueError("a class-conditional network needs labels")
            e = e + self.label(labels)
        e = nn.functional.silu(with_extra(e, extra))
        h = self.input(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        out: Tensor = self.output(self.norm(h))
        return out.reshape(x.shape)
