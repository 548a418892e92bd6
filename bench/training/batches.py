"""Training batches: random numbers drawn in fixed blocks of examples, and the noisy images made of them.

Example i of step k depends on (training seed, k, i // BLOCK) and its place in the block, never on the batch size nor on
how many processes share the batch: each draws the blocks that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tractbench.diffusion.processes import Process, per_sample
from tractbench.method import Batch, Times
from tractbench.seeds import generator
from tractbench.training.parallel import share

BLOCK = 32
"""Examples whose random numbers come from one generator."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of consecutive examples, on the CPU.

    Attributes:
        index: which training images, ``[B]``, int64.
        u: uniforms in [0, 1) for the times, ``[B, draws]``, float64.
        noise: standard normal, ``[B, C, H, W]``, float32.
        mirrored: which images are mirrored, ``[B]``, bool; None where none ever is.
    """

    index: Tensor
    u: Tensor
    noise: Tensor
    mirrored: Tensor | None

    def first(self, count: int) -> Draws:
        """Return the first examples, as views."""
        mirrored = self.mirrored[:count] if self.mirrored is not None else None
        return Draws(self.index[:count], self.u[:count], self.noise[:count], mirrored)


def draw_blocks(
    seed: int, step: int, blocks: range, *, images: int, shape: tuple[int, ...], flips: bool, uniforms: int = 2
) -> Draws:
    """Draw whole blocks of examples, each from a generator of its own: index, uniforms, noise, flips.

    Args:
        seed: training seed.
        step: training step.
        blocks: consecutive blocks; block b holds the examples from ``BLOCK * b`` on.
        images: number of training images.
        shape: (C, H, W).
        flips: whether images are mirrored with probability one half; it changes no other number.
        uniforms: uniforms an example.

    Returns:
        ``BLOCK * len(blocks)`` examples.
    """
    count = BLOCK * len(blocks)
    index = torch.empty(count, dtype=torch.int64)
    u = torch.empty((count, uniforms), dtype=torch.float64)
    noise = torch.empty((count, *shape))
    coin = torch.empty(count if flips else 0)
    for place, block in enumerate(blocks):
        random = generator("train", seed, step, block)
        rows = slice(BLOCK * place, BLOCK * (place + 1))
        index[rows].random_(images, generator=random)
        u[rows].uniform_(generator=random)
        noise[rows].normal_(generator=random)
        if flips:
            coin[rows].uniform_(generator=random)
    return Draws(index, u, noise, coin < 0.5 if flips else None)


@dataclass(frozen=True)
class Examples:
    """What consecutive examples are made of, on the CPU; page-locked if they go to a GPU.

    Attributes:
        x0: clean images, ``[B, C, H, W]``, float32 in [-1, 1], mirrored already.
        noise: standard normal, ``[B, C, H, W]``, float32.
        u: uniforms in [0, 1) for the times, ``[B, draws]``, float64.
        labels: classes ``[B]``, or None.
    """

    x0: Tensor
    noise: Tensor
    u: Tensor
    labels: Tensor | None

    def split(self, size: int) -> Iterator[Examples]:
        """Yield them in pieces of ``size``, the last one shorter, as views."""
        for first in range(0, len(self.x0), size):
            rows = slice(first, first + size)
            labels = self.labels[rows] if self.labels is not None else None
            yield Examples(self.x0[rows], self.noise[rows], self.u[rows], labels)


@dataclass(frozen=True)
class Batches:
    """The global batches of a training run.

    Attributes:
        seed: training seed.
        size: examples of a step, over all processes.
        images: training images ``[N, C, H, W]``, as the data set keeps them.
        decode: makes them float32 in [-1, 1]; only what a step draws is decoded.
        labels: their classes ``[N]``, for class-conditional networks.
        flips: mirror each drawn image with probability one half.
        device: where batches go.
        draws: uniforms an example.
    """

    seed: int
    size: int
    images: Tensor
    decode: Callable[[Tensor], Tensor]
    labels: Tensor | None
    flips: bool
    device: str
    draws: int = 2

    @property
    def blocks(self) -> range:
        """The blocks of a batch; the last one may be cut."""
        return range(-(-self.size // BLOCK))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def share(self, rank: int, size: int) -> range:
        """Return the blocks that a rank draws: none, if there are fewer blocks than processes."""
        return share(len(self.blocks), rank, size)

    def draw(self, step: int, blocks: range | None = None) -> Draws:
        """Draw a step's examples, or those of some of its consecutive blocks."""
        blocks = self.blocks if blocks is None else blocks
        drawn = draw_blocks(
            self.seed, step, blocks, images=len(self.images), shape=self.shape, flips=self.flips, uniforms=self.draws
        )
        return drawn.first(self.size - BLOCK * blocks.start)

    def examples(self, draws: Draws) -> Examples:
        """Read, decode and mirror the images of some draws, and lock their memory for a GPU to copy while it works."""
        x0 = self.decode(self.images.index_select(0, draws.index))
        if draws.mirrored is not None:
            x0 = torch.where(per_sample(draws.mirrored, x0), x0.flip(-1), x0)
        labels = self.labels[draws.index] if self.labels is not None else None
        if not self.device.startswith("cuda"):
            return Examples(x0, draws.noise, draws.u, labels)
        locked = labels.pin_memory() if labels is not None else None
        return Examples(x0.pin_memory(), draws.noise.pin_memory(), draws.u.pin_memory(), locked)

    def noisy(self, examples: Examples, process: Process, times: Callable[[Tensor], Times]) -> Batch:
        """Make the batch of some examples on the device.

        Args:
            examples: clean images and random numbers.
            process: the diffusion process.
            times: the method's times for uniforms ``[B, draws]``.
        """
        labels = self._moved(examples.labels) if examples.labels is not None else None
        x0, noise, drawn = self._moved(examples.x0), self._moved(examples.noise), times(self._moved(examples.u))
        alpha, sigma = process.alpha(drawn.t), process.sigma(drawn.t)
        x_t = per_sample(alpha, x0) * x0 + per_sample(sigma, x0) * noise
        return Batch(x_t=x_t, times=drawn, labels=labels, x0=x0, noise=noise, process=process)

    def _moved(self, tensor: Tensor) -> Tensor:
        """Move to the device; out of page-locked memory nobody waits for the copy."""
        return tensor.to(self.device, non_blocking=True)
