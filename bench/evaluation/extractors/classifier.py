"""The feature space of a small classifier, and how small classifiers are trained."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.base import Extractor
from tractbench.io.files import file_name
from tractbench.nets.build import build_network
from tractbench.nets.classifier import Classifier
from tractbench.progress import Progress
from tractbench.seeds import generator
from tractbench.teachers.card import FeatureCard, load_network, read_card, write_card
from tractbench.training.optimiser import Adam


class ClassifierExtractor(Extractor):
    """The penultimate layer of the classifier that a data set names for its features.

    Args:
        dataset: its workload's ``features`` is the name of a feature card.

    Raises:
        ConfigError: there is no such card, or, at the first call, it is not a classifier's.
        DamagedFileError: at the first call, the weights are not those of the card.
    """

    name = "feature"

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._card, self._folder = read_card(dataset.workload.features, FeatureCard)

    @property
    def hash(self) -> str:
        """The sha256 of the weights that the card promises; they are checked against it when they are loaded."""
        return self._card.sha256

    @cached_property
    def _network(self) -> Classifier:
        network = load_network(self._card, self._folder)
        if not isinstance(network, Classifier):
            raise ConfigError(f"card '{self._card.name}' is not a classifier; name a feature card in the data set")
        return network

    @torch.no_grad()
    def __call__(self, grey: Tensor) -> Tensor:
        """Return features of grey levels ``[B, C, H, W]`` uint8."""
        return self._network.features(self.dataset.decode(grey))


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
    optimiser = Adam(network.parameters(), 1e-3)
    images, (labels, held_out_labels) = dataset.decode(dataset.train), dataset.classifier_labels()
    with progress.task("training classifier", recipe.steps, "step") as task:
        for step in range(recipe.steps):
            random = generator("classifier", seed, step)
            index = torch.randint(len(images), (recipe.batch,), generator=random)
            scores = network(_shifted(images[index], random))
            loss = torch.nn.functional.cross_entropy(scores, labels[index], label_smoothing=0.05)
            optimiser.rate = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
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
