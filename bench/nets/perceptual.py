"""LPIPS (Zhang et al. 2018, arXiv 1801.03924), version 0.1 with VGG-16: a distance of images by features.

Features of five layers of an ImageNet classifier are scaled to length 1 at every pixel; squared differences are
weighted by channel, averaged over pixels and summed over layers. Both files of weights are the authors' own.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tractbench.io.published import PublishedFile
from tractbench.nets.distances import PublishedDistance
from tractbench.progress import Progress

TRUNK = PublishedFile(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    553_433_881,
    "perceptual",
)
"""torchvision's VGG-16, trained on ImageNet."""

WEIGHTS = PublishedFile(
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/082bb24f84c091ea94de2867d34c4544f68e0963/"
    "lpips/weights/v0.1/vgg.pth",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    7_289,
    "perceptual",
)
"""The weights by channel, version 0.1."""

SIZE = 224
"""Height and width that images are enlarged to."""

CHANNELS = (64, 128, 256, 512, 512)
ENDS = (4, 9, 16, 23, 30)
"""Layers of VGG-16 behind which features are taken: relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LPIPS(nn.Module):
    """The distance, on images of any size that are enlarged bilinearly to 224 x 224.

    Args:
        average_pooling: VGG's max pooling is replaced by the average, as the release of consistency models does.
    """

    def __init__(self, average_pooling: bool = False) -> None:
        from torchvision.models import vgg16

        super().__init__()
        with torch.device("meta"):
            layers = list(vgg16().features)[: ENDS[-1]]
        if average_pooling:
            layers = [nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else layer for layer in layers]
        self.trunk = nn.Sequential(*layers)
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(1, width, 1, 1)) for width in CHANNELS)
        self.trunk.to_empty(device="cpu")

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distances ``[B]`` of images ``[B, 3, H, W]`` in [-1, 1], float32; gradients go to both."""
        layers = zip(self.weights, self._features(first), self._features(second), strict=True)
        return torch.stack([(w * (a - b).square()).sum(1).mean((1, 2)) for w, a, b in layers]).sum(0)

    def _features(self, images: Tensor) -> Iterator[Tensor]:
        """Yield features of length 1 at every pixel, of one layer after the other."""
        mean, std = (images.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (MEAN, STD))
        x = F.interpolate((images.float() + 1) / 2, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = (x - mean) / std
        for index, layer in enumerate(self.trunk, 1):
            x = layer(x)
            if index in ENDS:
                yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


class PublishedLPIPS(PublishedDistance):
    """LPIPS with the weights of its authors.

    Args:
        average_pooling: as in :class:`LPIPS`.
    """

    def __init__(self, average_pooling: bool) -> None:
        self.average_pooling = average_pooling

    def missing(self) -> str | None:
        """Say where the files are fetched from, if they are not here."""
        lacking = [file for file in (TRUNK, WEIGHTS) if not file.path.is_file()]
        if not lacking:
            return None
        size = sum(file.size for file in lacking) / 1e9
        places = ", ".join(f"{file.url} ({file.path})" for file in lacking)
        return f"{size:.1f} GB are fetched when training begins; offline, put each at the place behind it: {places}"

    def fetch(self, progress: Progress) -> None:
        """Fetch and check both files unless they are there."""
        for file in (TRUNK, WEIGHTS):
            file.fetch(progress)

    def load(self) -> nn.Module:
        """Return the network with both files' tensors."""
        network = LPIPS(self.average_pooling)
        classifier = torch.load(TRUNK.path, map_location="cpu", weights_only=True)
        features = {name.removeprefix("features."): t for name, t in classifier.items() if name.startswith("features.")}
        network.trunk.load_state_dict(features)
        weights = torch.load(WEIGHTS.path, map_location="cpu", weights_only=True)
        network.weights.load_state_dict({f"{i}": weights[f"lin{i}.model.1.weight"] for i in range(len(CHANNELS))})
        return network

    def untrained(self) -> nn.Module:
        """Return the network with small constant weights."""
        network = LPIPS(self.average_pooling)
        for parameter in network.parameters():
            nn.init.constant_(parameter, 1e-3)
        return network
