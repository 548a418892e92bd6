"""Reference statistics: of a data set's training images, computed once and kept, or imported from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tractbench.config.identity import SCORING_VERSION
from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.edm2_statistics import read_edm2
from tractbench.evaluation.extractors.inception import DIMENSIONS, Features
from tractbench.evaluation.frechet import Gaussian, RunningMoments
from tractbench.io.archives import UNREADABLE, reason
from tractbench.io.cache import cache_dir
from tractbench.io.canonical import canonical
from tractbench.io.files import known_sha256, write_atomic
from tractbench.io.sealed import keep_sealed
from tractbench.progress import Progress

BATCH = 50
"""Images that the network always runs on together, on any device: at other sizes it rounds differently."""

NEGATIVE = 1e-4
"""Eigenvalues may be below 0 by this share of the largest: those of sums in float32 are by some 1e-6."""

KEPT = 50_000
"""Reference images whose features are kept, evenly spaced, for the metrics that compare single images."""


CACHED = "delete it, it is only a cache"
"""What to do about a damaged file of the cache."""

Extract = Callable[[Tensor], Tensor]
"""Returns features ``[B, D]`` of images ``[B, C, H, W]`` uint8."""


class Network(Protocol):
    """What the scores need of a feature network."""

    def __call__(self, images: Tensor, resize: str) -> Features:
        """Return features of uint8 images ``[B, 3, H, W]``."""


@dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    Attributes:
        gaussian: mean and covariance of the features, with their root.
        features: features of at most 50,000 of the images, float32, mapped from their file; None if imported.
    """

    gaussian: Gaussian
    features: Tensor | None


def regrouped(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the same rows in batches of exactly ``size``, the last one excepted."""
    held: list[Tensor] = []
    rows = 0
    for batch in batches:
        for piece in torch.split(batch, size):
            held.append(piece)
            rows += len(piece)
            if rows >= size:
                whole = torch.cat(held)
                yield whole[:size]
                held, rows = [whole[size:]], rows - size
    if rows:
        yield torch.cat(held)


def statistics_key(dataset: Dataset, resize: str, weights_sha256: str) -> str:
    """Return the sha256 of all that decides the statistics of a data set's training images."""
    parts = [SCORING_VERSION, dataset.fingerprint, dataset.training_images, resize, weights_sha256]
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def dataset_reference(dataset: Dataset, resize: str, sha256: str, network: Network, progress: Progress) -> Reference:
    """Return the statistics of a data set's training images; they are computed once and kept in the cache.

    Args:
        dataset: its ``train`` is read in pieces, never whole.
        resize: how images reach the network's size.
        sha256: hash of the network's weights.
        network: extracts features.
        progress: draws the bar, and says when the cache is damaged and so computed again.

    Raises:
        StoreError: the cache cannot be written.
    """
    key = statistics_key(dataset, resize, sha256)
    return feature_reference(dataset, key, lambda images: network(images, resize).pool, progress)


def feature_reference(dataset: Dataset, key: str, extract: Extract, progress: Progress, space: str = "") -> Reference:
    """Return the statistics of a data set's training images in a feature space; computed once and kept in the cache.

    Args:
        dataset: its ``train`` is read in pieces, never whole.
        key: sha256 of all that decides them, the name of their files.
        extract: returns features ``[B, D]`` of images ``[B, C, H, W]`` uint8.
        progress: draws the bar, and says when the cache is damaged and so computed again.
        space: what the bar calls the features.

    Raises:
        StoreError: the cache cannot be written.
    """
    path = cached_statistics(key)
    features = path.with_suffix(".features.npy")
    title = f"reference statistics{f', {space}' * bool(space)}"
    keep_sealed((path, features), lambda: _compute(dataset, extract, progress, title, path, features), progress)
    values = read_statistics(path, ("mu", "sigma", "root"), CACHED)
    rows = torch.from_numpy(np.load(features, mmap_mode="c"))
    return Reference(Gaussian(values["mu"], values["sigma"], values["root"]), rows)


def cached_statistics(key: str) -> Path:
    """Return where statistics of a key are kept."""
    return cache_dir() / "statistics" / f"{key}.npz"


def _compute(dataset: Dataset, extract: Extract, progress: Progress, title: str, path: Path, features: Path) -> None:
    """Write mean, covariance and root, summed about the mean of the first batch, and the features that are kept."""
    count = len(dataset.train)
    kept = np.unique(np.linspace(0, count - 1, min(count, KEPT)).astype(np.int64))
    opening = extract(dataset.train[:BATCH])
    sums = RunningMoments(opening.double().mean(0))

    def write_features(file: Path) -> None:
        rows = np.lib.format.open_memmap(file, "w+", dtype=np.float32, shape=(len(kept), len(sums.shift)))
        with progress.task(title, count, "image") as task:
            for first in range(0, count, BATCH):
                pool = extract(dataset.train[first : first + BATCH]) if first else opening
                sums.add(pool)
                low, high = np.searchsorted(kept, [first, first + len(pool)])
                rows[low:high] = pool[kept[low:high] - first].numpy()
                task.advance(len(pool))
        rows.flush()

    write_atomic(features, write_features)
    gaussian = sums.gaussian()
    write_statistics(path, {"mu": gaussian.mean, "sigma": gaussian.covariance, "root": gaussian.root})


def write_statistics(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name to an npz file."""

    def write(file: Path) -> None:
        with file.open("wb") as handle:
            np.savez(handle, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]

    write_atomic(path, write)


def statistics_sha256(path: Path) -> str:
    """Return the hash of a file of statistics.

    Raises:
        ConfigError: there is no such file, or it cannot be read.
    """
    try:
        return known_sha256(path)
    except OSError as error:
        raise ConfigError(f"no statistics at {path} ({error.strerror}); give an npz file with mu and sigma") from error


def import_reference(path: Path) -> Reference:
    """Read statistics that others made: ``mu`` ``[2048]`` and ``sigma`` ``[2048, 2048]``.

    An npz file, such as EDM's or guided-diffusion's, or a ``.pkl`` of EDM2's, of which nothing is executed.

    Raises:
        ConfigError: there is no such file.
        DamagedFileError: it holds something else.
    """
    statistics_sha256(path)  # says whether it is there
    if path.suffix.lower() == ".pkl":
        values = _doubles(read_edm2(path))
    else:
        values = read_statistics(path, ("mu", "sigma"), "give an npz file with mu and sigma")
    mean, covariance = values["mu"], values["sigma"]
    if mean.shape != (DIMENSIONS,) or covariance.shape != (DIMENSIONS, DIMENSIONS):
        raise DamagedFileError(
            f"{path}: mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)} are not of {DIMENSIONS} features; "
            "give statistics of the Inception network's last pool"
        )
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise DamagedFileError(f"{path}: mu or sigma is not finite; fetch or make it again")
    if not torch.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6):
        raise DamagedFileError(f"{path}: sigma is not symmetric; fetch or make it again")
    spectrum = torch.linalg.eigvalsh((covariance + covariance.T) / 2)
    if float(spectrum[0]) < -NEGATIVE * max(0.0, float(spectrum[-1])) or float(spectrum[-1]) <= 0:
        raise DamagedFileError(
            f"{path}: sigma is no covariance, its eigenvalues are from {float(spectrum[0]):.3g} to "
            f"{float(spectrum[-1]):.3g}; fetch or make it again"
        )
    return Reference(Gaussian(mean, covariance), None)


def read_statistics(path: Path, names: tuple[str, ...], remedy: str) -> dict[str, Tensor]:
    """Read arrays of an npz file as float64; nothing in it is unpickled."""
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            return _doubles({name: file[name] for name in names})
    except (*UNREADABLE, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} holds no statistics ({reason(error)}); {remedy}") from error


def _doubles(arrays: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> dict[str, Tensor]:
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise ValueError(f"{name} is {array.dtype}, not of real floats")
    return {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()}
