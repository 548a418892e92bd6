"""Scores of images in a data set's own feature spaces, against its training and its held-out images.

``fd_pixel`` and ``fd_feature`` are Frechet distances to the training images, of pixels in [-1, 1] and of the data set's
own feature network, ``fd_NAME`` of the extractor that protocol ``raw+NAME`` adds; ``_held_out`` are the same to images
nothing was trained on. None of them is a FID, which is defined by the Inception network.

``nn_ratio`` is the mean distance of a sample to its nearest training image over the mean distance to its nearest
held-out image. It is 0 for a sampler that only repeats its training images; fresh real images have the value given as
its floor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.base import Extractor, load_extractor
from tractbench.evaluation.frechet import Gaussian, RunningMoments, frechet_distance
from tractbench.evaluation.manifest import Basis
from tractbench.evaluation.part import Part, merged
from tractbench.evaluation.protocols import OWN_SPACES, Protocol
from tractbench.io.canonical import canonical
from tractbench.plugins import plugin_hashes
from tractbench.training.parallel import ALONE, Group


class ImageScorer:
    """Scores images against training and held-out images; statistics are computed when they are first needed.

    Args:
        dataset: the data.
        protocol: the protocol.
        chunk: features are extracted and summed in pieces of so many images.

    Raises:
        ConfigError: the data have no feature network of their own.
    """

    def __init__(self, dataset: Dataset, protocol: Protocol, chunk: int) -> None:
        if dataset.distribution is not None or not dataset.workload.features:
            own = dataset.workload.protocol
            raise ConfigError(
                f"protocol '{protocol.name}' needs a data set with a feature network of its own, not '{dataset.name}'; "
                + (
                    f"use --protocol {own}"
                    if own != protocol.name
                    else f"name one as 'features' in its workload, {dataset.workload.source}, or another protocol"
                )
            )
        self._dataset, self.protocol, self._chunk, self.together = dataset, protocol, chunk, chunk
        self._extractors: Mapping[str, Extractor] = {
            name: load_extractor(name, dataset) for name in (*OWN_SPACES, *protocol.spaces)
        }
        parts = [dataset.fingerprint, protocol.key, [extractor.hash for extractor in self._extractors.values()]]
        parts += plugin_hashes(*map(type, self._extractors.values()))
        self.reference_hash = hashlib.sha256(canonical(parts).encode()).hexdigest()

    @property
    def basis(self) -> Basis:
        """What the scores depend on besides the samples."""
        train, held_out = self._dataset.training_images, len(self._dataset.held_out)
        return Basis(
            weights={name: extractor.hash for name, extractor in self._extractors.items()},
            verified=True,
            statistics=f"the {train:,} training and {held_out:,} held-out images of {self._dataset.name}",
            reference_images=train,
            reference_hash=self.reference_hash,
        )

    @cached_property
    def _train(self) -> dict[str, Gaussian]:
        """Moments of the training images in each feature space, summed about the mean of their first piece."""
        return {name: self._gaussian(e, self._dataset.train, None) for name, e in self._extractors.items()}

    @cached_property
    def _held_out(self) -> dict[str, Gaussian]:
        held_out = self._dataset.held_out
        return {name: self._gaussian(e, held_out, self._train[name].mean) for name, e in self._extractors.items()}

    @cached_property
    def _train_pixels(self) -> Tensor:
        return self._pixels(self._dataset.train)

    @cached_property
    def _held_out_pixels(self) -> Tensor:
        return self._pixels(self._dataset.held_out)

    def _pixels(self, grey: Tensor) -> Tensor:
        return self._dataset.decode(grey).double().flatten(1)

    def _gaussian(self, extractor: Extractor, images: Tensor, shift: Tensor | None) -> Gaussian:
        if shift is None:
            shift = extractor(images[: self._chunk]).double().mean(0)
        moments = RunningMoments(shift)
        for piece in torch.split(images, self._chunk):
            moments.add(extractor(piece))
        return moments.gaussian()

    @cached_property
    def floors(self) -> dict[str, float]:
        """The scores of the held-out images against the training images; their nearest others stand for held out."""
        floors = {}
        for name in self._extractors:
            floor = frechet_distance(self._train[name], self._held_out[name])
            floors[f"fd_{name}"] = floors[f"fd_{name}_held_out"] = floor
        among = torch.cdist(self._held_out_pixels, self._held_out_pixels)
        to_others = among.fill_diagonal_(torch.inf).amin(1).mean()
        to_train = torch.cdist(self._held_out_pixels, self._train_pixels).amin(1).mean()
        floors["nn_ratio"] = float(to_train / to_others)
        return floors

    def prepare(self, group: Group = ALONE) -> None:
        """Load the feature network and compute statistics and floors now; other ranks only where to sum about."""
        _ = self.floors if group.is_main else self._train

    def score(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Score quantised images ``[B, C, H, W]`` uint8, streamed; memory does not grow with their number."""
        return self.finish([self.collect(batches)])

    def collect(self, batches: Iterable[Tensor]) -> Part:
        """Return moments in each feature space, and sums of distances to nearest images."""
        moments = {name: RunningMoments(self._train[name].mean) for name in self._extractors}
        to_train = to_held_out = 0.0
        for batch in batches:
            for piece in torch.split(batch, self._chunk):  # the same sums in the same order for any batch size
                for name, extractor in self._extractors.items():
                    moments[name].add(extractor(piece))
                pixels = self._pixels(piece)
                to_train += float(torch.cdist(pixels, self._train_pixels).amin(1).sum())
                to_held_out += float(torch.cdist(pixels, self._held_out_pixels).amin(1).sum())
        return Part(moments, {"to_train": to_train, "to_held_out": to_held_out})

    def finish(self, parts: Sequence[Part]) -> dict[str, float]:
        """Return the scores of all images."""
        whole = merged(parts)
        to_train, to_held_out = whole.sums["to_train"], whole.sums["to_held_out"]
        scores = {}
        for name in self._extractors:
            samples = whole.moments[name].gaussian()
            scores[f"fd_{name}"] = frechet_distance(samples, self._train[name])
            scores[f"fd_{name}_held_out"] = frechet_distance(samples, self._held_out[name])
        scores["nn_ratio"] = to_train / to_held_out if to_held_out > 0 else float("inf")
        return {name: scores[name] for name in self.protocol.metrics}
