"""What about samples or their scores cannot be as it should: it is said beside the scores and changes none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from tractbench.datasets.base import Dataset

TOO_NEAR = 1e-3
"""No two sets of different natural images have a Frechet distance below this, at any number that fits on a disk."""

FRECHET = ("fid", "fd_unverified", "fd_pixel", "fd_feature")

FEWEST = 10
MOST_STRETCHED = 0.9
"""Of real photographs far fewer reach the darkest and the brightest level both."""

MOST_REPEATED = 1 / 3

JPEG_IMAGES, JPEG_BLOCK, JPEG_EXCESS = 500, 8, 0.04
"""Steps between neighbours are, at the borders of JPEG's blocks, higher than the steps beside them: by 0.08 at quality
75, by 0.03 at 85, in photographs that are no JPEG by less than 0.01 on average over 500 images of 32 pixels."""


class Doubts:
    """Looks at samples on their way into a scorer.

    Args:
        dataset: the data that they imitate.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._points = dataset.distribution is not None
        self._photographs = dataset.levels == 256 and not self._points
        self._colour = dataset.shape[0] == 3 and not self._points
        self._count = self._stretched = self._grey = 0
        self._seen: set[bytes] = set()
        self._steps: dict[int, Tensor] = {}

    def look(self, images: Tensor) -> None:
        """Look at samples ``[B, C, H, W]``, uint8 grey levels, or points, of which nothing is doubted."""
        if self._points:
            return
        self._count += len(images)
        rows = images.contiguous().flatten(1)
        self._seen.update(hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in rows)
        if self._photographs:
            self._stretched += int(((rows.amin(1) == 0) & (rows.amax(1) == 255)).sum())
            self._add_steps(images)
        if self._colour:
            self._grey += int((images == images[:, :1]).flatten(1).all(1).sum())

    def _add_steps(self, images: Tensor) -> None:
        grey = images.float().mean(1).double()
        for axis in (1, 2):
            steps = grey.diff(dim=axis).abs().sum(dim=(0, 3 - axis))  # [H - 1] or [W - 1]
            self._steps[axis] = self._steps[axis] + steps if axis in self._steps else steps

    def found(self, scores: Mapping[str, tuple[float, ...]]) -> tuple[str, ...]:
        """Return what cannot be, each in a sentence with the likely reason."""
        said = []
        for name in FRECHET:
            near = [value for value in scores.get(name, ()) if value < TOO_NEAR]
            if near:
                said.append(f"{name} {min(near):.2g}: two different sets of images are never so near; the samples seem "
                            "to be the reference images themselves")  # fmt: skip
        if self._count >= FEWEST:
            said += self._of_the_images()
        return tuple(said)

    def _of_the_images(self) -> list[str]:
        said, count = [], self._count
        if self._photographs and self._stretched > MOST_STRETCHED * count:
            said.append(f"{self._stretched:,} of {count:,} images span exactly 0 to 255; somebody seems to have "
                        "stretched each between its own extremes")  # fmt: skip
        if len(self._seen) <= (1 - MOST_REPEATED) * count:
            said.append(f"only {len(self._seen):,} of {count:,} images are different")
        if self._colour and self._grey > MOST_STRETCHED * count:
            said.append(f"{self._grey:,} of {count:,} images are grey, the data are in colour")
        if self._photographs and count >= JPEG_IMAGES and self._blocks() > JPEG_EXCESS:
            said.append("the images have the borders of JPEG's blocks of 8x8; published figures are of images that "
                        "were never JPEG")  # fmt: skip
        return said

    def _blocks(self) -> float:
        """Return by how much steps at blocks' borders exceed those beside them, more than elsewhere."""
        excesses = []
        for steps in self._steps.values():
            if len(steps) < 2 * JPEG_BLOCK or float(steps[:-1].min()) == 0:
                return 0.0
            relative = 2 * steps[1:-1] / (steps[:-2] + steps[2:])
            place = torch.arange(1, len(steps) - 1) % JPEG_BLOCK
            border = place == JPEG_BLOCK - 1
            beside = (place == 0) | (place == JPEG_BLOCK - 2)
            excesses.append(float(relative[border].mean() - relative[~border & ~beside].mean()))
        return sum(excesses) / max(1, len(excesses))
