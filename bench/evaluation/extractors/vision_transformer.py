"""Vision transformers of the Hugging Face Hub as feature spaces: one file of tensors, by its sha256, and no code of it.

The weights are a safetensors file at a fixed revision; its sha256 is the one that the Hub's own storage (Git LFS) has
for it, and stands here. Another file is another feature space, and has no name here. The architecture is that of
``transformers`` with the sizes below: neither the repository's configuration nor any code of it is read.

Images are enlarged like those of Stein et al. 2023 (arXiv 2306.04675; ``dgm-eval`` without ``--clean_resize``):
Pillow's bicubic filter on 8-bit images to 224 x 224, divided by 255, the network's own mean and standard deviation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.extractors.base import Extractor, extractor_class
from tractbench.io.published import PublishedFile
from tractbench.plugins import names
from tractbench.progress import Progress
from tractbench.training.numerics import precision

SIZE = 224
"""Height and width that the networks take."""

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Published:
    """A file of weights on the Hub.

    Attributes:
        repository: owner and name.
        revision: the commit that it is taken from.
        sha256: its hash.
        size: its bytes.
        licence: what its authors allow.
        summary: which network it is, in a few words.
    """

    repository: str
    revision: str
    sha256: str
    size: int
    licence: str
    summary: str
    file: str = "model.safetensors"

    @property
    def url(self) -> str:
        """Where it is fetched from."""
        return f"{HUB}/{self.repository}/resolve/{self.revision}/{self.file}"

    @property
    def kept(self) -> PublishedFile:
        """The file, with its place in the cache."""
        return PublishedFile(self.url, self.sha256, self.size, f"features/{self.repository.replace('/', '--')}")

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return self.kept.path

    def fetch(self, progress: Progress, source: Path | None = None) -> None:
        """Fetch and check the file unless it is there: :meth:`~tractbench.io.published.PublishedFile.fetch`."""
        self.kept.fetch(progress, source)


class VisionTransformer(Extractor):
    """Features of a published vision transformer, ViT-L/14 unless it says otherwise, float32 on the CPU.

    Args:
        dataset: the data, RGB of 256 grey levels.

    Raises:
        ConfigError: the data are others.
    """

    weights: ClassVar[Published]
    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    width: ClassVar[int] = 1024
    layers: ClassVar[int] = 24
    heads: ClassVar[int] = 16
    patch: ClassVar[int] = 14

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        if dataset.distribution is not None or dataset.shape[0] != 3 or dataset.levels != 256:
            raise ConfigError(
                f"feature extractor '{self.name}' takes RGB images of 256 grey levels, which '{dataset.name}' has not; "
                "see 'tractbench list extractors'"
            )
        self._network: nn.Module | None = None
        self._device = "cpu"

    @property
    def hash(self) -> str:
        """The sha256 of the weights, which are checked against it when they are loaded."""
        return self.weights.sha256

    @property
    def operations(self) -> int:
        """Operations of an image: those of the products of patches, queries, keys, values, outputs and both layers."""
        tokens, width = (SIZE // self.patch) ** 2 + 1, self.width
        layer = 12 * tokens * width**2 + 2 * tokens**2 * width
        return 2 * (self.layers * layer + (tokens - 1) * 3 * self.patch**2 * width)

    @classmethod
    def missing(cls) -> str | None:
        """Say where the weights are fetched from, if they are not here."""
        if find_spec("transformers") is None:
            raise ConfigError(cls._uninstalled())
        if cls.weights.path.is_file():
            return None
        return (
            f"{cls.weights.size / 1e9:.1f} GB are fetched at the first evaluation from {cls.weights.url}; offline, "
            f"'tractbench features fetch {cls.name} --from FILE'"
        )

    @classmethod
    def _uninstalled(cls) -> str:
        return f"feature extractor '{cls.name}' needs transformers; pip install 'tractbench[features]'"

    @abstractmethod
    def architecture(self) -> tuple[Any, object]:
        """Return the class in ``transformers`` and its configuration, for images of 224 x 224."""

    def tensors(self, held: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the network's tensors by name, of those that the file holds."""
        return held

    @abstractmethod
    def features(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return features ``[B, D]`` of normalised images ``[B, 3, 224, 224]``."""

    def prepare(self, device: str, progress: Progress) -> None:
        """Fetch, check and load the weights, once.

        Raises:
            ConfigError: ``transformers`` is not installed.
            DownloadError: the weights cannot be fetched; the message says what to put where.
            DamagedFileError: the file is not what it should be.
        """
        if self._network is not None and device == self._device:
            return
        try:
            kind, config = self.architecture()
        except ImportError as error:
            raise ConfigError(self._uninstalled()) from error
        self.weights.fetch(progress)
        network = self._loaded(kind, config)
        self._network, self._device = network.float().eval().requires_grad_(False).to(device), device

    def _loaded(self, kind: Any, config: object) -> nn.Module:
        """Return the network with the file's tensors: every one of them, and no other."""
        try:
            with torch.random.fork_rng(devices=[]), _silent():  # the global generator stays as it is
                # this way alone renames tensors that releases of transformers call otherwise than the file does
                network, report = kind.from_pretrained(
                    None, config=config, state_dict=self.tensors(load_file(self.weights.path)), output_loading_info=True
                )
            if wrong := {what: found for what, found in report.items() if found}:
                what, names = next(iter(wrong.items()))
                raise ValueError(f"{what.replace('_', ' ')}: {', '.join(map(str, sorted(names, key=str)[:3]))}")
        except (SafetensorError, ValueError, RuntimeError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DamagedFileError(
                f"{self.weights.path} does not fit the network of '{self.name}' ({reason}); "
                "delete it and fetch it again, or install another release of transformers"
            ) from error
        found: nn.Module = network
        return found

    @torch.no_grad()
    def __call__(self, grey: Tensor) -> Tensor:
        """Return features of grey levels ``[B, 3, H, W]`` uint8."""
        if self._network is None:
            self.prepare(self._device, Progress())
        assert self._network is not None
        images = normalised(grey, self.mean, self.std).to(self._device)
        with precision("fp32", self._device):
            return self.features(self._network, images).float().cpu()


def published() -> dict[str, type[VisionTransformer]]:
    """Return the published networks by name, those of plugins too."""
    found: dict[str, type[VisionTransformer]] = {}
    for name in names("extractors"):
        with suppress(ConfigError):  # a plugin that cannot be loaded is named by 'list extractors'
            kind = extractor_class(name)
            if issubclass(kind, VisionTransformer):
                found[name] = kind
    return found


@contextmanager
def _silent() -> Iterator[None]:
    """Keep ``transformers`` from drawing a bar and from printing a report, which is raised instead."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(50)  # as logging.CRITICAL
    logging.disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
    try:
        yield
    finally:
        logging.enable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
        logging.set_verbosity(level)


def normalised(grey: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Return images ``[B, 3, H, W]`` uint8 as the networks take them, ``[B, 3, 224, 224]`` float32."""
    resized = [
        np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for image in grey.permute(0, 2, 3, 1).contiguous().numpy()
    ]
    unit = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    return (unit - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
