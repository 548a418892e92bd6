"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn has too: real images for a laptop.

They are the test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, CC BY 4.0).
``digits.csv.gz`` has 64 pixels in 0..16 and the class of an image in a line; scikit-learn, whose file it is, takes a
second to import.
"""

from __future__ import annotations

import hashlib
import zlib
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tractbench.datasets.base import Dataset
from tractbench.datasets.formats.prepared import content_sha256
from tractbench.datasets.workload import WORKLOADS
from tractbench.errors import DamagedFileError

TRAINING_IMAGES = 1297
SHA256 = {
    "train": "455f5cf4e2d52fd148d36d8f09f264d9bbdbb32f82f08a4157c6efae35f9fdac",
    "held_out": "7911f66852f9553d7b56d6c50cd99fa2a76a67034342e7d52e95ff79ba01038d",
}
"""Of each split's pixels, then its labels as little-endian int32, as in the manifest of a prepared split."""

FILE = Path(__file__).with_name("digits.csv.gz")
REMEDY = "install tractbench again"


class Digits(Dataset):
    """8x8 grey digits with 17 levels: 1,297 to train on, 500 held out, ten classes that runs do not use."""

    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "1,797 handwritten digits, 8x8 grey, shipped; 1,297 train, 500 held out"
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    levels: ClassVar[int] = 17
    train_count: ClassVar[int] = TRAINING_IMAGES
    workload_file: ClassVar[Path] = WORKLOADS / "digits.toml"

    @property
    def contents(self) -> object:
        """The hashes that loading the images checks; a subclass with other images says so here."""
        return {"name": self.name, **SHA256}

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor]:
        try:
            rows = torch.from_numpy(np.loadtxt(FILE, delimiter=",", dtype=np.int64, ndmin=2))
            images, labels = rows[:, :64].to(torch.uint8).reshape(-1, *self.shape), rows[:, 64]
        except (OSError, EOFError, ValueError, IndexError, RuntimeError, zlib.error) as error:
            raise DamagedFileError(f"{FILE} cannot be read ({error}); {REMEDY}") from error
        order = sorted(range(len(images)), key=lambda i: hashlib.sha256(f"digits split {i}".encode()).digest())
        images, labels = images[order], labels[order]
        for split, part in (("train", slice(TRAINING_IMAGES)), ("held_out", slice(TRAINING_IMAGES, None))):
            found = content_sha256(images[part], labels[part])
            if found != SHA256[split]:
                raise DamagedFileError(
                    f"digits {split} in {FILE}: sha256 {found[:12]}, {SHA256[split][:12]} is needed; {REMEDY}"
                )
        return images, labels

    @cached_property
    def train(self) -> Tensor:
        """Training images ``[1297, 1, 8, 8]``, uint8 in 0..16."""
        return self._split[0][:TRAINING_IMAGES]

    @cached_property
    def held_out(self) -> Tensor:
        """Held-out images ``[500, 1, 8, 8]``, uint8 in 0..16."""
        return self._split[0][TRAINING_IMAGES:]

    def classifier_labels(self) -> tuple[Tensor, Tensor]:
        """Return the classes of training and held-out images, ``[1297]`` and ``[500]``, for the feature classifier."""
        return self._split[1][:TRAINING_IMAGES], self._split[1][TRAINING_IMAGES:]
