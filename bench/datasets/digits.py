"""The 1,797 handwritten digits of 8x8 pixels that ship with scikit-learn: real images for a laptop."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset, Settings, TeacherRecipe

TRAINING_IMAGES = 1297


class Digits(Dataset):
    """8x8 grey digits with 17 levels: 1,297 to train on, 500 held out, ten classes that runs do not use."""

    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "1,797 handwritten digits, 8x8 grey, shipped with scikit-learn; 1,297 train, 500 held out"
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    levels: ClassVar[int] = 17
    train_count: ClassVar[int] = TRAINING_IMAGES
    threads: ClassVar[int | None] = 1
    features: ClassVar[str] = "digits-classifier"
    processes: ClassVar[tuple[str, ...]] = ("vp", "ve")
    teachers: ClassVar[Mapping[str, str]] = {"vp": "digits-vp", "ve": "digits-ve"}
    networks: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "mlp": {"channels": 1, "size": 8, "width": 128, "blocks": 3, "embedding": 64},
        "mlp-third": {"channels": 1, "size": 8, "width": 72, "blocks": 3, "embedding": 48},
    }
    recipes: ClassVar[Mapping[str, TeacherRecipe]] = {
        process: TeacherRecipe("mlp", weight_cap=5.0, steps=3000, batch=256, lr=1e-3, ema=0.999)
        for process in ("vp", "ve")
    }
    tiers: ClassVar[Mapping[str, Settings]] = {
        "small": {"budget": 1 << 19, "batch": 128, "samples": 5000, "chunk": 500},
        "smoke": {"budget": 8192, "batch": 128, "samples": 500, "chunk": 500},
    }

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits

        data = load_digits()
        images = torch.from_numpy(data.images).to(torch.uint8)[:, None]
        labels = torch.from_numpy(data.target)
        order = sorted(range(len(images)), key=lambda i: hashlib.sha256(f"digits split {i}".encode()).digest())
        return images[order], labels[order]

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
