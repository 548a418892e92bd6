"""Samples of a denoiser as a cell's protocol wants them: its seeds, sampler and chunks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import CountingDenoiser, Denoiser
from tractbench.diffusion.sampler import Sampler
from tractbench.errors import InterruptedRunError, RunFailedError
from tractbench.evaluation.part import own_images
from tractbench.evaluation.sampling import sample
from tractbench.evaluation.scorer import Scorer
from tractbench.pipeline.cell import Cell
from tractbench.pipeline.runtime import Runtime
from tractbench.progress import Progress, Task
from tractbench.results.record import Metric


def draw_samples(
    cell: Cell,
    denoiser: Denoiser,
    seed: int,
    runtime: Runtime,
    *,
    count: int | None = None,
    first: int = 0,
    chunk: int | None = None,
    sampler: Sampler | None = None,
    two_times: bool | None = None,
    task: Task | None = None,
) -> Iterator[Tensor]:
    """Yield a cell's images of a sampling seed, ``[B, C, H, W]``, float64, not quantised.

    Args:
        cell: the run; it decides what is not given.
        denoiser: what is sampled.
        seed: sampling seed.
        runtime: where, and how many images at once.
        count: images, or the index after the last one.
        first: index of the first image.
        chunk: images in one network call.
        sampler: its steps.
        two_times: whether the denoiser is also told where each step ends; else as the method's students are.
        task: told of every finished image.

    Raises:
        InterruptedRunError: the run was asked to stop.
        RunFailedError: an image is not finite.
    """
    images = sample(
        denoiser,
        cell.process,
        cell.dataset.shape,
        seed,
        cell.config.samples if count is None else count,
        sampler or cell.sampler,
        chunk=chunk or cell.config.chunk,
        first=first,
        batch=runtime.sample_batch,
        two_times=cell.method.two_times if two_times is None else two_times,
        classes=cell.dataset.classes,
        clip=cell.config.clip_sample,
        device=runtime.device,
        task=task,
    )
    for batch in images:
        if runtime.stop():
            kept = "kept: the trained student" if cell.method.trains else "nothing was recorded"
            raise InterruptedRunError(f"stopped while sampling; {kept}; the same command does the rest")
        if not bool(torch.isfinite(batch).all()):
            raise RunFailedError(f"diverged: sampling seed {seed} gave images that are not finite")
        yield batch


def count_evaluations(cell: Cell, denoiser: Denoiser, runtime: Runtime) -> int:
    """Return how many denoiser evaluations the sampler really spends on an image, by counting them."""
    counter = CountingDenoiser(denoiser)
    for _ in draw_samples(cell, counter, 0, runtime, count=1, chunk=1):
        pass
    return counter.evaluations


def score_samples(
    cell: Cell, denoiser: Denoiser, scorer: Scorer, runtime: Runtime, progress: Progress
) -> dict[str, Metric]:
    """Return every metric of the protocol over the cell's sampling seeds; processes share out the images."""
    config, protocol, group = cell.config, scorer.protocol, runtime.group
    own = own_images(config.samples, (config.chunk, scorer.together), group)
    per_seed: list[dict[str, float]] = []
    shown = "sampling and scoring" + (f", process 1 of {group.size}" if group.size > 1 else "")
    with progress.task(shown, len(own) * len(config.sampling_seeds), "image") as task:
        for seed in config.sampling_seeds:
            batches = draw_samples(cell, denoiser, seed, runtime, count=own.stop, first=own.start, task=task)
            parts = group.gather(scorer.collect(protocol.quantised(batch, cell.dataset) for batch in batches))
            per_seed.append(group.from_main(partial(scorer.finish, parts)))
            first = protocol.metrics[0]
            task.advance(0, f"seed {seed}  {first} {per_seed[-1][first]:.4g}")
    return {name: Metric.of([scores[name] for scores in per_seed]) for name in protocol.metrics}
