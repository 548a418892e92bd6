"""Samples that depend on (seed, index) only, whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.progress import Task
from tractbench.seeds import generator
from tractbench.training.ahead import Ahead, asynchronous


def prior_noise(process: Process, shape: tuple[int, ...], seed: int, indices: range) -> Tensor:
    """Return the starting noise of images ``indices`` of a sampling seed, ``[len(indices), *shape]``.

    Each image's noise is drawn from a generator of its own, derived from the seed and the image's index.
    """
    noise = torch.stack([torch.randn(shape, generator=generator("sample", seed, index)) for index in indices])
    return noise * process.prior_std


def prior_labels(classes: int, seed: int, indices: range) -> Tensor:
    """Return the classes of images ``indices`` of a sampling seed, uniform and independent, ``[len(indices)]``."""
    draws = [torch.randint(classes, (), generator=generator("label", seed, index)) for index in indices]
    return torch.stack(draws)


def fresh_noise(sampler: Sampler, shape: tuple[int, ...], seed: int, indices: range) -> tuple[Tensor, ...]:
    """Return the standard normal noise that a sampler takes between its steps, each ``[len(indices), *shape]``.

    It depends on the sampling seed, the image's index and the step's, counted from 0.
    """
    return tuple(
        torch.stack([torch.randn(shape, generator=generator("renoise", seed, index, step)) for index in indices])
        for step in range(len(sampler.noise))
    )


def on_cpu(tensors: Iterable[Tensor], device: str) -> Iterator[Tensor]:
    """Yield tensors of a device on the CPU, each while the device already works on the next one.

    A CPU computes one after the other, and nothing is held back.
    """
    if not asynchronous(device):
        yield from tensors
        return
    waiting: tuple[Tensor, torch.Event] | None = None
    for tensor in tensors:
        host = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
        copied = torch.Event(device)
        copied.record()
        if waiting is not None:
            waiting[1].synchronize()
            yield waiting[0]
        waiting = host, copied
    if waiting is not None:
        waiting[1].synchronize()
        yield waiting[0]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    process: Process,
    shape: tuple[int, int, int],
    seed: int,
    count: int,
    sampler: Sampler,
    *,
    chunk: int,
    first: int = 0,
    batch: int | None = None,
    two_times: bool = False,
    classes: int = 0,
    clip: bool = True,
    device: str = "cpu",
    task: Task | None = None,
) -> Iterator[Tensor]:
    """Yield images ``first`` to count - 1 of a sampling seed in order.

    Networks round differently at different batch sizes, so they always run on the same ``chunk`` consecutive indices,
    the last chunk filled up with the images that would follow. A GPU makes the next chunk while one is looked at.

    Args:
        denoiser: x0 predictor.
        process: its diffusion process.
        shape: (C, H, W).
        seed: sampling seed.
        count: number of images, or the index after the last one.
        sampler: its steps; noise between them is each image's own, like that it starts from.
        chunk: images in one network call; another chunk size may give other bits.
        first: index of the first image, a multiple of the chunk.
        batch: images in one yielded tensor, rounded up to whole chunks; never changes a bit. None: one chunk.
        two_times: the denoiser is also told where each step ends.
        classes: number of classes, each image's drawn like its noise; 0 for no labels.
        clip: clip x0 to [-1, 1] in every DDIM step.
        device: where the network runs.
        task: told of every finished image.

    Yields:
        Images ``[<= batch, C, H, W]``, float64 on the CPU, not quantised.

    Raises:
        ValueError: ``first`` is no multiple of the chunk.
    """
    if first % chunk:
        raise ValueError(f"chunks begin at multiples of {chunk}, not at image {first}")
    starts = range(first, count, chunk)

    def drawn(place: int) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        indices = range(starts[place], starts[place] + chunk)
        labels = prior_labels(classes, seed, indices) if classes else None
        return prior_noise(process, shape, seed, indices), labels, fresh_noise(sampler, shape, seed, indices)

    def made() -> Iterator[Tensor]:
        ahead = Ahead(drawn, len(starts), device)
        try:
            for place in range(len(starts)):
                noise, labels, fresh = ahead.take(place)
                labels = labels.to(device) if labels is not None else None
                fresh = tuple(one.to(device) for one in fresh)
                yield sample_ode(
                    denoiser, process, noise.to(device), sampler, labels, fresh=fresh, two_times=two_times, clip=clip
                )
        finally:
            ahead.close()

    chunks_together = -(-(batch or chunk) // chunk)
    held: list[Tensor] = []
    for start, images in zip(starts, on_cpu(made(), device), strict=True):
        held.append(images[: count - start])
        if task:
            task.advance(len(held[-1]))
        if len(held) == chunks_together:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)
