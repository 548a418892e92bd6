"""The Inception network of 2015-12-05, by which FID is defined: torch-fidelity's layers, folded and faster."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.extractors.resize import RESIZES
from tractbench.io.cache import cache_dir
from tractbench.io.download import download
from tractbench.io.files import known_sha256
from tractbench.progress import Progress

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
"""The weights that torch-fidelity publishes, converted from TensorFlow's."""

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Their hash; the file's name carries its first eight digits."""

DIMENSIONS = 2048

OPERATIONS = 11_422_336_192
"""Operations of an image: those of convolutions and matrix products, two a multiplication and sum."""


@dataclass(frozen=True)
class Weights:
    """A file of Inception weights; only with the published ones is a score a FID.

    Attributes:
        path: where the file is, or where the published one will be put.
        sha256: its hash.
    """

    path: Path
    sha256: str

    @property
    def verified(self) -> bool:
        """Whether they are the published ones."""
        return self.sha256 == SHA256


def choose_weights(path: Path | None) -> Weights:
    """Return the weights in a file, or the published ones, which need not be on this machine yet.

    Raises:
        ConfigError: the file cannot be read.
    """
    if path is None:
        return Weights(cache_dir() / "inception" / URL.rpartition("/")[2], SHA256)
    try:
        return Weights(path, known_sha256(path))
    except OSError as error:
        raise ConfigError(f"cannot read weights {path}: {error.strerror}; leave --weights out to fetch them") from error


class Features(NamedTuple):
    """What the network says of images: ``pool`` ``[B, 2048]`` and ``logits`` without bias ``[B, 1008]``, float32."""

    pool: Tensor
    logits: Tensor


class Inception:
    """The network with its batch norms folded into its convolutions, channels last.

    Args:
        weights: the file; the published one is fetched if it is not there.
        device: where it runs.
        progress: draws the download.

    Raises:
        DownloadError: the weights cannot be fetched; the message says what to put where.
        DamagedFileError: the file is not what it should be.
    """

    def __init__(self, weights: Weights, device: str, progress: Progress) -> None:
        if weights.verified:
            download(URL, weights.path, SHA256, progress)
        self._fold(torch_fidelity_network(weights.path), device)

    @classmethod
    def untrained(cls, device: str) -> Inception:
        """Return the network with random weights, to see how long it takes."""
        network = cls.__new__(cls)
        network._fold(untrained_network(), device)
        return network

    def _fold(self, network: nn.Module, device: str) -> None:
        layers = [child for name, child in network.named_children() if name != "fc"]
        body = nn.Sequential(*(_folded(layer) for layer in layers))
        self._body = body.to(device).to(memory_format=torch.channels_last)
        self._classify: Tensor = network.get_parameter("fc.weight").T.contiguous().to(device)
        self._device = device

    @torch.no_grad()
    def __call__(self, images: Tensor, resize: str) -> Features:
        """Return the features of images.

        Args:
            images: ``[B, 3, H, W]`` uint8.
            resize: a name in :data:`~tractbench.evaluation.extractors.resize.RESIZES`.
        """
        x = RESIZES[resize](images.to(self._device)).contiguous(memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # ten bits of mantissa would move a FID
            pool = self._body(x).flatten(1)
        return Features(pool.cpu(), (pool @ self._classify).cpu())


def torch_fidelity_network(path: Path) -> nn.Module:
    """Return torch-fidelity's own network, from uint8 images to a tuple of their ``[B, 2048]`` features.

    The file is read as plain tensors, nothing in it is executed.

    Raises:
        DamagedFileError: it holds something else.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ValueError("it holds no dictionary of tensors")
        network = untrained_network()
        nn.Module.load_state_dict(network, tensors)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(
            f"{path} holds no weights of torch-fidelity's Inception network ({reason}); fetch {URL}"
        ) from error
    return network


def untrained_network() -> nn.Module:
    """Build torch-fidelity's network with random weights: its constructor would unpickle a file without care."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, *ignored: object) -> None:
            """Load nothing."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):  # the global generator stays as it is
        network: nn.Module = Bare("inception", ["2048"], feature_extractor_weights_path=nothing)
    return network


def _folded(module: nn.Module) -> nn.Module:
    """Fold every batch norm below a module into the convolution before it, computed in float64."""
    for child in module.modules():
        convolution, norm = getattr(child, "conv", None), getattr(child, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            child.conv = fuse_conv_bn_eval(convolution.double(), norm.double()).float()
            child.bn = nn.Identity()
    return module
