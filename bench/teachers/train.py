"""Trains small teachers from scratch by a data set's recipe."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from tractbench.cards import TeacherCard, write_card
from tractbench.datasets.base import Dataset, TeacherRecipe
from tractbench.diffusion.denoiser import SIGMA_DATA
from tractbench.diffusion.processes import PROCESSES, per_sample
from tractbench.errors import ConfigError, RunFailedError
from tractbench.progress import Progress
from tractbench.seeds import generator
from tractbench.teachers.load import new_denoiser
from tractbench.training.ema import LongEMA

LOG_EVERY = 20
TIME_STEPS = 1024
"""Grid that teachers are trained on; on EDM's noise levels, times finer than any sampler's."""


def learning_rate(recipe: TeacherRecipe, step: int) -> float:
    """Return the rate of step ``step`` (from 0): linear warm-up over a tenth, at most 500 steps, then a half cosine."""
    warmup = max(1, min(500, recipe.steps // 10))
    return recipe.lr * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def train_teacher(
    dataset: Dataset, process_name: str, folder: Path, progress: Progress, *, seed: int = 0, steps: int | None = None
) -> TeacherCard:
    """Train a denoiser on a data set's training images and write its weights and card.

    The loss is the x0 error, summed over pixels, times the SNR limited to [1, weight_cap], at uniform times.

    Args:
        dataset: the data set.
        process_name: which of its recipes.
        folder: where weights and card go.
        progress: draws the bar.
        seed: training seed.
        steps: optimiser steps instead of the recipe's.

    Raises:
        ConfigError: there is no such recipe, or ``steps`` is below 1.
        RunFailedError: the loss became infinite or NaN.
    """
    recipe = dataset.recipe(process_name)
    if steps is not None:
        if steps < 1:
            raise ConfigError(f"steps {steps}: a teacher needs at least 1; the recipe has {recipe.steps}")
        recipe = replace(recipe, steps=steps)
    name = f"{dataset.name}-{process_name}"
    process = PROCESSES[process_name](TIME_STEPS)
    preset = dataset.network(recipe.network, process_name)
    denoiser = new_denoiser(preset, process, generator("teacher", name, seed, "weights"))
    data_scale = SIGMA_DATA if process_name == "ve" else 1.0  # SNR in units of the data's own variance
    parameters = list(denoiser.parameters())
    average = LongEMA(denoiser, recipe.ema)
    optimiser = torch.optim.Adam(parameters, lr=recipe.lr, fused=True)
    images = dataset.decode(dataset.train)

    with progress.task(f"training teacher {name}", recipe.steps, "step") as task:
        for step in range(recipe.steps):
            random = generator("teacher", name, seed, step)
            x0 = images[torch.randint(len(images), (recipe.batch,), generator=random)]
            t = 1 - torch.rand(recipe.batch, dtype=torch.float64, generator=random)  # in (0, 1]
            noise = torch.randn(x0.shape, generator=random)
            x_t = per_sample(process.alpha(t), x0) * x0 + per_sample(process.sigma(t), x0) * noise
            weight = (data_scale**2 * torch.exp(process.log_snr(t))).clamp(1.0, recipe.weight_cap)
            loss = (weight * (denoiser(x_t, t) - x0).square().flatten(1).sum(1)).mean()
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, step)
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
    command += f" --seed {seed}" * (seed != 0) + f" --steps {steps}" * (steps is not None)
    return write_card(
        TeacherCard,
        folder,
        denoiser.get_submodule("net"),
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
