"""Trains small teachers from scratch by a data set's recipe."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from tractbench.datasets.base import FULL, Dataset
from tractbench.datasets.workload import TeacherRecipe
from tractbench.diffusion.preconditioning import SIGMA_DATA
from tractbench.diffusion.processes import Process, load_process, per_sample
from tractbench.errors import ConfigError, RunFailedError
from tractbench.progress import Progress
from tractbench.seeds import generator
from tractbench.teachers.card import TeacherCard, write_card
from tractbench.teachers.load import new_denoiser
from tractbench.training.ema import LongEMA
from tractbench.training.optimiser import Adam

LOG_EVERY = 20
P_MEAN, P_STD = -1.2, 1.2
"""Mean and standard deviation of EDM's ln sigma (Karras et al. 2022, table 1)."""

TIME_STEPS = 1024
"""Grid that teachers are trained on; on EDM's noise levels, times finer than any sampler's."""


def learning_rate(recipe: TeacherRecipe, step: int) -> float:
    """Return the rate of step ``step`` (from 0): linear warm-up over a tenth, at most 500 steps, then a half cosine."""
    warmup = max(1, min(500, recipe.steps // 10))
    return recipe.lr * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def draw_times(recipe: TeacherRecipe, process: Process, random: torch.Generator) -> Tensor:
    """Draw the times of a step ``[batch]``, float64: uniform in (0, 1], or of EDM's log-normal noise levels."""
    if recipe.loss == "capped_snr":
        return 1 - torch.rand(recipe.batch, dtype=torch.float64, generator=random)
    sigma = torch.exp(P_MEAN + P_STD * torch.randn(recipe.batch, dtype=torch.float64, generator=random))
    return process.time(sigma.clamp(process.sigma_min, process.sigma_max))


def loss_weight(recipe: TeacherRecipe, process: Process, t: Tensor) -> Tensor:
    """Return the weight of the x0 error at ``t`` ``[batch]``: capped SNR, or EDM's lambda (Karras et al. 2022).

    SNR is in units of the data's own variance where the process tells it so.
    """
    snr = torch.exp(process.log_snr(t))
    if recipe.loss == "edm":
        return snr + 1 / SIGMA_DATA**2
    return (process.data_scale**2 * snr).clamp(1.0, recipe.weight_cap)


def train_teacher(
    dataset: Dataset,
    process_name: str,
    folder: Path,
    progress: Progress,
    *,
    seed: int = 0,
    steps: int | None = None,
    tier: str = FULL,
    device: str = "cpu",
) -> TeacherCard:
    """Train a denoiser on a data set's training images and write its weights and card.

    The loss is the x0 error, summed over pixels, times the recipe's weight. Images are mirrored at random where the
    data set's may be.

    Args:
        dataset: the data set.
        process_name: which of its recipes.
        folder: where weights and card go.
        progress: draws the bar.
        seed: training seed.
        steps: optimiser steps instead of the recipe's.
        tier: the tier whose runs the teacher is for, where they have a recipe of their own, such as ``smoke``.
        device: where the network runs.

    Raises:
        ConfigError: there is no such recipe, or ``steps`` is below 1.
        RunFailedError: the loss became infinite or NaN.
    """
    recipe = dataset.recipe(process_name, tier)
    if steps is not None:
        if steps < 1:
            raise ConfigError(f"steps {steps}: a teacher needs at least 1; the recipe has {recipe.steps}")
        recipe = recipe.model_copy(update={"steps": steps})
    name = dataset.trained_teacher(process_name, tier)
    process = load_process(process_name, TIME_STEPS)
    preset = dataset.network(recipe.network, process_name)
    denoiser = new_denoiser(preset, process, generator("teacher", name, seed, "weights")).to(device)
    parameters = list(denoiser.parameters())
    average = LongEMA(denoiser, recipe.ema)
    optimiser = Adam(parameters, recipe.lr)
    images, labels = dataset.train, dataset.train_labels

    with progress.task(f"training teacher {name}", recipe.steps, "step") as task:
        for step in range(recipe.steps):
            random = generator("teacher", name, seed, step)
            index = torch.randint(len(images), (recipe.batch,), generator=random)
            x0 = dataset.decode(images.index_select(0, index))
            t = draw_times(recipe, process, random)
            noise = torch.randn(x0.shape, generator=random)
            if dataset.flips:
                mirrored = torch.rand(recipe.batch, generator=random) < 0.5
                x0 = torch.where(per_sample(mirrored, x0), x0.flip(-1), x0)
            weight = loss_weight(recipe, process, t).to(device)
            x_t = (per_sample(process.alpha(t), x0) * x0 + per_sample(process.sigma(t), x0) * noise).to(device)
            classes = labels[index].to(device) if labels is not None else None
            error = denoiser(x_t, t.to(device), classes) - x0.to(device)
            loss = (weight * error.square().flatten(1).sum(1)).mean()
            optimiser.rate = learning_rate(recipe, step)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            average.update(parameters)
            note = ""
            if (step + 1) % LOG_EVERY == 0 or step + 1 == recipe.steps:
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise RunFailedError(f"teacher loss is {value} at step {step + 1}; nothing was written")
                note = f"loss {value:.4g}"
            task.advance(1, note)

    average.copy_to(denoiser)
    command = f"tractbench teacher train --dataset {dataset.name} --process {process_name}"
    command += (
        f" --tier {tier}" * (tier != FULL) + f" --seed {seed}" * (seed != 0) + f" --steps {steps}" * (steps is not None)
    )
    return write_card(
        TeacherCard,
        folder,
        denoiser.get_submodule("net").cpu(),
        name=name,
        summary=f"{process_name.upper()} denoiser for {dataset.name}, {recipe.network}",
        dataset=dataset.name,
        network=preset.network,
        arguments=dict(preset.arguments),
        licence="Apache-2.0",
        command=command,
        process=process_name,
        parameterisation=preset.parameterisation,
    )
