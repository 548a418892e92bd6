"""The feature space of a small classifier, and the training of the one for digits."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.base import Extractor
from tractbench.nets.build import build_network
from tractbench.nets.classifier import Classifier
from tractbench.progress import Progress
from tractbench.seeds import generator
from tractbench.teachers.card import FeatureCard, load_network, read_card, write_card

CLASSIFIER_ARGUMENTS = {"channels": 1, "size": 8, "width": 32, "features": 64, "classes": 10}
CLASSIFIER_STEPS = 3000
CLASSIFIER_BATCH = 64


class ClassifierExtractor(Extractor):
    """The penultimate layer of the classifier that a data set names for its features.

    Args:
        dataset: its ``features`` is the name of a feature card.

    Raises:
        ConfigError: there is no such card, or, at the first call, it is not a classifier's.
        DamagedFileError: at the first call, the weights are not those of the card.
    """

    name = "feature"

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._card, self._folder = read_card(dataset.features, FeatureCard)

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
        return self._network.features(self._dataset.decode(grey))


def _shifted(images: Tensor, random: torch.Generator) -> Tensor:
    """Move each image by at most one pixel in each direction, filling with background."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    down, right = torch.randint(0, 3, (2,), generator=random).tolist()
    size = images.shape[-1]
    return padded[..., down : down + size, right : right + size]


def train_classifier(
    dataset: Dataset, labels: tuple[Tensor, Tensor], folder: Path, progress: Progress, *, seed: int = 0
) -> FeatureCard:
    """Train the digits classifier on the training split, and write weights and card with the held-out accuracy.

    Cross entropy, Adam with a half-cosine rate from 1e-3, batches moved by up to one pixel.

    Args:
        dataset: the digits.
        labels: classes of its training and of its held-out images, ``[N]`` each.
        folder: where weights and card go.
        progress: draws the bar.
        seed: training seed.
    """
    network = build_network("classifier", CLASSIFIER_ARGUMENTS, generator("classifier", seed, "weights"))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    images, (train_labels, held_out_labels) = dataset.decode(dataset.train), labels
    with progress.task("training classifier", CLASSIFIER_STEPS, "step") as task:
        for step in range(CLASSIFIER_STEPS):
            random = generator("classifier", seed, step)
            index = torch.randint(len(images), (CLASSIFIER_BATCH,), generator=random)
            scores = network(_shifted(images[index], random))
            loss = torch.nn.functional.cross_entropy(scores, train_labels[index], label_smoothing=0.05)
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / CLASSIFIER_STEPS))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            task.advance(1, f"loss {float(loss.detach()):.4g}" if (step + 1) % 20 == 0 else "")
    with torch.no_grad():
        right = network(dataset.decode(dataset.held_out)).argmax(1) == held_out_labels
    command = "tractbench features train --dataset digits"
    command += f" --seed {seed}" * (seed != 0)
    return write_card(
        FeatureCard,
        folder,
        network,
        name=f"{dataset.name}-classifier",
        summary="classifier of digits; its penultimate layer is the feature space of fd_feature",
        dataset=dataset.name,
        network="classifier",
        arguments=CLASSIFIER_ARGUMENTS,
        licence="Apache-2.0",
        command=command,
        accuracy=float(right.double().mean()),
    )
