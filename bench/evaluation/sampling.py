"""Samples that depend on (seed, index) only, whatever the batch size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.diffusion.solvers import sample_ode
from tractbench.progress import Task
from tractbench.seeds import generator


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


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    process: Process,
    shape: tuple[int, int, int],
    seed: int,
    count: int,
    steps: int,
    *,
    chunk: int,
    batch: int | None = None,
    solver: str = "ddim",
    classes: int = 0,
    clip: bool = True,
    device: str = "cpu",
    task: Task | None = None,
) -> Iterator[Tensor]:
    """Yield images 0 to count - 1 of a sampling seed in order.

    Networks round differently at different batch sizes, so they always run on the same ``chunk`` consecutive indices,
    the last chunk filled up with the images that would follow.

    Args:
        denoiser: x0 predictor.
        process: its diffusion process.
        shape: (C, H, W).
        seed: sampling seed.
        count: number of images.
        steps: steps of the solver.
        chunk: images in one network call; another chunk size may give other bits.
        batch: images in one yielded tensor, rounded up to whole chunks; never changes a bit. None: one chunk.
        solver: ``ddim`` or ``heun``.
        classes: number of classes, each image's drawn like its noise; 0 for no labels.
        clip: clip x0 to [-1, 1] in every DDIM step.
        device: where the network runs.
        task: told of every finished image.

    Yields:
        Images ``[<= batch, C, H, W]``, float64 on the CPU, not quantised.
    """
    chunks_together = -(-(batch or chunk) // chunk)
    held: list[Tensor] = []
    for first in range(0, count, chunk):
        noise = prior_noise(process, shape, seed, range(first, first + chunk)).to(device)
        labels = prior_labels(classes, seed, range(first, first + chunk)).to(device) if classes else None
        images = sample_ode(denoiser, process, noise, steps, labels, solver=solver, clip=clip).cpu()
        held.append(images[: count - first])
        if task:
            task.advance(len(held[-1]))
        if len(held) == chunks_together:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)
