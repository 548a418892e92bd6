"""A small convolutional classifier whose penultimate layer serves as a feature space for tiny images."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Two convolutions, one hidden layer and the class scores.

    Args:
        channels: image channels C.
        size: image height and width, even.
        width: channels of the first convolution; the second has twice as many.
        features: width of the penultimate layer.
        classes: number of classes.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        width: int,
        features: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.hidden = nn.Linear(2 * width * (size // 2) ** 2, features)
        self.output = nn.Linear(features, classes)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw weights of variance 2/fan_in and zero the biases."""
        for parameter in self.parameters():
            with torch.no_grad():
                if parameter.ndim > 1:
                    parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5, generator=generator)
                else:
                    parameter.zero_()

    def features(self, x: Tensor) -> Tensor:
        """Return the penultimate activations ``[B, features]`` of images in [-1, 1]."""
        h = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return torch.relu(self.hidden(h.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores ``[B, classes]`` of images in [-1, 1]."""
        scores: Tensor = self.output(self.features(x))
        return scores
