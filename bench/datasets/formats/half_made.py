"""What an interrupted conversion left: continued only if it is as it was left."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tractbench.io.files import write_atomic
from tractbench.io.seals import sealed, unsealed


class HalfMade:
    """What a half-made conversion has: how many images, and the hashes of their pixels and labels so far."""

    def __init__(self) -> None:
        self.images = 0
        self._pixels, self._labels = hashlib.sha256(), hashlib.sha256()

    def add(self, images: int, pixels: bytes, labels: bytes) -> None:
        """Take note of images that were written."""
        self.images += images
        self._pixels.update(pixels)
        self._labels.update(labels)

    def write(self, state: Path, identity: str) -> None:
        """Write what there is; the file is small and renamed, so that it is always whole."""
        hashes = {"pixels": self._pixels.hexdigest(), "labels": self._labels.hexdigest()}
        write_atomic(state, json.dumps(sealed({"identity": identity, "images": self.images, **hashes})))

    @classmethod
    def read(cls, state: Path, identity: str, *files: tuple[Path, int]) -> HalfMade | None:
        """Return what there is of the same source; None if there is nothing, or not what was written.

        Args:
            state: where it was written.
            identity: the source's.
            files: pixels and labels, each with its bytes an image.
        """
        try:
            written = unsealed(json.loads(state.read_text(encoding="utf-8")))
            images = written["images"]
            if written["identity"] != identity or not isinstance(images, int):
                return None
            kept = cls()
            kept.images = images
            for digest, (path, size) in zip((kept._pixels, kept._labels), files, strict=True):
                with path.open("rb") as file:
                    left = images * size
                    while left and (piece := file.read(min(left, 1 << 22))):
                        digest.update(piece)
                        left -= len(piece)
            hashes = kept._pixels.hexdigest(), kept._labels.hexdigest()
            return kept if hashes == (written["pixels"], written["labels"]) else None
        except (OSError, ValueError, KeyError, AttributeError):
            return None
