"""Feature extractors: quantised images to vectors, and the training of small classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.io.files import file_name
from tractbench.nets.build import build_network
from tractbench.nets.classifier import Classifier
from tractbench.progress import Progress
from tractbench.seeds import generator
from tractbench.teachers.card import FeatureCard, load_network, read_card, write_card


@dataclass(frozen=True)
class Extractor:
    """Maps quantised images ``[B, C, H, W]`` uint8 to features ``[B, dimensions]``; ``hash`` identifies it."""

    name: str
    dimensions: int
    hash: str
    extract: Callable[[Tensor], Tensor]


def pixel_extractor(dataset: Dataset) -> Extractor:
    """Return the images' own pixels in [-1, 1] as features."""
    channels, height, width = dataset.shape
    return Extractor("pixel", channels * height * width, "pixel", lambda grey: dataset.decode(grey).double().flatten(1))


def feature_extractor(dataset: Dataset) -> Extractor:
    """Return the data set's own feature network, its weights checked against their sha256."""
    card, folder = read_card(dataset.workload.features, FeatureCard)
    network = load_network(card, folder)
    if not isinstance(network, Classifier):
        raise ConfigError(f"card '{card.name}' is not a classifier")

    @torch.no_grad()
    def extract(grey: Tensor) -> Tensor:
        return network.features(dataset.decode(grey))

    return Extractor("feature", network.output.in_features, card.sha256, extract)


def _shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Move each image by at most one pixel in each direction, filling with background."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    down, right = torch.randint(0, 3, (2,), generator=random).tolist()
    size = images.shape[-1]
    return padded[..., down : down + size, right : right + size]


def train_classifier(dataset: Dataset, folder: Path, progress: Progress, *, seed: int = 0) -> FeatureCard:
    """Train a data set's classifier on the training split, and write weights and card with the held-out accuracy.

    Cross entropy, Adam with a half-cosine rate from 1e-3, batches moved by up to one pixel.

    Raises:
        ConfigError: the data set has no recipe for one.
    """
    recipe, architecture = dataset.classifier()
    network = build_network(architecture.network, architecture.arguments, generator("classifier", seed, "weights"))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    images, (labels, held_out_labels) = dataset.decode(dataset.train), dataset.classifier_labels()
    with progress.task("training classifier", recipe.steps, "step") as task:
        for step in range(recipe.steps):
            random = generator("classifier", seed, step)
            index = torch.randint(len(images), (recipe.batch,), generator=random)
            scores = network(_shifted(images[index], random))
            loss = torch.nn.functional.cross_entropy(scores, labels[index], label_smoothing=0.05)
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            task.advance(1, f"loss {float(loss.detach()):.4g}" if (step + 1) % 20 == 0 else "")
    with torch.no_grad():
        right = network(dataset.decode(dataset.held_out)).argmax(1) == held_out_labels
    command = f"tractbench features train --dataset {dataset.name}"
    command += f" --seed {seed}" * (seed != 0)
    return write_card(
        FeatureCard,
        folder,
        network,
        name=f"{file_name(dataset.name)}-classifier",
        summary=f"classifier of {dataset.name}; its penultimate layer is the feature space of fd_feature",
        dataset=dataset.name,
        network=architecture.network,
        arguments=architecture.arguments,
        licence="Apache-2.0",
        command=command,
        accuracy=float(right.double().mean()),
    )
