"""ImageNet at 64x64 from files that a user has: its pixels depend on who reduced them, so that is part of the name."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tractbench.datasets.formats.edm_zip import edm_zip_source
from tractbench.datasets.formats.files import FileDataset
from tractbench.datasets.formats.imagenet_order import ILSVRC_TO_SORTED
from tractbench.datasets.formats.prepared import Manifest, Pieces, Source, stamp
from tractbench.datasets.workload import WORKLOADS
from tractbench.errors import ConfigError, DamagedFileError, nearest_name
from tractbench.io.archives import UNREADABLE as UNREADABLE_FILE
from tractbench.io.archives import put_on_purpose, reason

SIZE = 64
PIECE = 256
"""Images read together."""

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
UNREADABLE = (*UNREADABLE_FILE, Image.DecompressionBombError)
"""What NumPy, zipfile and Pillow raise where a file is damaged."""

SOURCES = {
    "box-bicubic": "full-size images: halved by boxes, then bicubic, then the centre, as ADM and EDM2 do",
    "lanczos": "full-size images: the central square, then Lanczos, as EDM does",
    "area": "full-size images: the central square, then true area means, as Google does, here rounded to 8 bits",
    "crop": "full-size images: the central 64 pixels without any resize, torchvision's as in the TRACT release",
    "npz": "the npz batches of downsampled ImageNet (Chrabaszcz et al. 2017), box filter",
    "zip": "a zip of 64x64 PNGs with dataset.json, as EDM's tools write it; the filter is its maker's",
}
"""Where pixels can come from, the default first."""

REVISED = {
    "area": "an earlier release made it, whose box filter took or left whole pixels",
    "crop": "an earlier release made it, whose crop was a pixel off where an odd rest was halved",
}
"""Sources whose pixels were others in earlier releases."""


class ImageNet64(FileDataset):
    """1,281,167 training images of 1,000 classes at 64x64.

    ``imagenet64:SOURCE`` says who reduced them; the name alone is ``imagenet64:box-bicubic``, whatever is prepared.
    """

    name: ClassVar[str] = "imagenet64"
    summary: ClassVar[str] = f"ImageNet at 64x64, 1,000 classes; imagenet64:SOURCE for pixels by {', '.join(SOURCES)}"
    shape: ClassVar[tuple[int, int, int]] = (3, SIZE, SIZE)
    classes: ClassVar[int] = 1000
    label_count: ClassVar[int] = 1000
    train_count: ClassVar[int] = 1_281_167
    held_out_count: ClassVar[int] = 50_000
    variants: ClassVar[tuple[str, ...]] = tuple(SOURCES)
    workload_file: ClassVar[Path] = WORKLOADS / "imagenet64.toml"

    def __init__(self, argument: str | None = None) -> None:
        self.source = argument or self.variants[0]
        if self.source not in SOURCES:
            raise ConfigError(f"imagenet64:{argument}: no such source of pixels{nearest_name(self.source, SOURCES)}")
        if self.source != self.variants[0]:
            self.name = f"imagenet64:{argument}"  # type: ignore[misc]

    @property
    def data_name(self) -> str:
        """The source of the pixels is part of the name of the prepared images."""
        return f"imagenet64:{self.source}"

    def outdated(self, manifest: Manifest) -> str | None:
        """Return how pixels that an earlier release made differ from what the name says now."""
        if self.source in REVISED and manifest.source != _made(self.source):
            return f"{REVISED[self.source]}; prepare it again with --force"
        return None

    def sources(self, path: Path) -> Mapping[str, Source]:
        """Return the splits at a path: a folder of npz batches, a zip, or a folder of classes (under train and val)."""
        if not path.exists():
            raise ConfigError(f"no file or folder {path}; give {SOURCES[self.source]}")
        found = {"npz": _npz_sources, "zip": _zip_sources}.get(self.source, self._folder_sources)(path)
        if not found:
            raise ConfigError(f"{path} holds nothing for {self.data_name}: {SOURCES[self.source]}")
        return found

    def _folder_sources(self, path: Path) -> dict[str, Source]:
        folders = {"train": path / "train", "held_out": path / "val"}
        if not folders["train"].is_dir():
            folders = {"train": path}
        classes = _classes(folders["train"])
        found = {split: _class_files(folder, classes) for split, folder in folders.items()}
        notes = _notes(folders["train"], list(classes))
        return {split: _folder_source(files, self.source, notes) for split, files in found.items() if files}


# npz batches of downsampled ImageNet

BATCH_NAME = re.compile(r"train_data_batch_(\d+)\.npz")


def _npz_sources(path: Path) -> dict[str, Source]:
    numbered = {int(match[1]): file for file in path.glob("*.npz") if (match := BATCH_NAME.fullmatch(file.name))}
    splits = {"train": [numbered[number] for number in sorted(numbered)], "held_out": list(path.glob("val_data.npz"))}
    return {split: _npz_source(files) for split, files in splits.items() if files}


def _npz_source(files: list[Path]) -> Source:
    def read(start: int) -> Pieces:
        seen = 0
        for file in files:
            labels = _npz_labels(file)
            if seen + len(labels) > start:
                yield from _npz_images(file, labels, max(0, start - seen))
            seen += len(labels)

    counts = [len(_npz_labels(file)) for file in files]
    return Source("downsampled ImageNet npz batches, box filter", sum(counts), read, stamp(files))


def _no_batch(file: Path, error: Exception) -> DamagedFileError:
    return DamagedFileError(f"{file} is not a batch of downsampled ImageNet ({reason(error)}); fetch it again")


def _npz_labels(file: Path) -> NDArray[np.int32]:
    """Return a batch's labels; the files have ILSVRC's numbers, from 1. Those out of range stay out of it."""
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            labels = np.asarray(arrays["labels"]).astype(np.int32).reshape(-1) - 1
    except UNREADABLE as error:
        raise DamagedFileError(
            f"{file} is not a batch of downsampled ImageNet ({reason(error)}); fetch it again"
        ) from error
    known = (labels >= 0) & (labels < len(ILSVRC_TO_SORTED))
    labels[known] = ILSVRC_TO_SORTED[labels[known]]
    return labels


def _npz_images(file: Path, labels: NDArray[np.int32], first: int) -> Pieces:
    """Yield a batch's images piece by piece; the file is never held whole."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open("data.npy") as member:
            shape, fortran, dtype = _npy_header(member)
            if fortran or dtype != np.uint8 or shape != (len(labels), 3 * SIZE * SIZE):
                raise ValueError(f"data is {shape} {dtype}, not ({len(labels)}, {3 * SIZE * SIZE}) uint8")
            member.seek(first * shape[1], io.SEEK_CUR)
            for low in range(first, len(labels), PIECE):
                high = min(low + PIECE, len(labels))
                raw = member.read((high - low) * shape[1])
                yield np.frombuffer(raw, np.uint8).reshape(-1, 3, SIZE, SIZE), labels[low:high]
    except UNREADABLE as error:
        raise DamagedFileError(
            f"{file} is not a batch of downsampled ImageNet ({reason(error)}); fetch it again"
        ) from error


def _npy_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    major = np.lib.format.read_magic(member)[0]
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    return shape, fortran, dtype


def _zip_sources(path: Path) -> dict[str, Source]:
    return {"train": edm_zip_source(path, SIZE, labels_needed=True)}


# Folders of full-size images


def _classes(folder: Path) -> dict[str, int]:
    """Return the labels of a folder's classes: its folders in order of their names; none if it is no folder.

    Hidden folders are none. Names that are all numbers are in the order of the numbers.
    """
    found = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    names = [name for name in found if put_on_purpose(name)]
    numbered = all(name.isascii() and name.isdecimal() for name in names)
    ordered = sorted(names, key=lambda name: (int(name), name)) if numbered else sorted(names)
    return {name: label for label, name in enumerate(ordered)}


def _class_files(folder: Path, classes: Mapping[str, int]) -> list[tuple[Path, int]]:
    """Return the image files of a split and their labels, which the training split's classes give."""
    files = []
    for name in _classes(folder):
        if name not in classes:
            raise ConfigError(f"{folder / name} is no class of the training images; complete them, or move it away")
        inside = [file for file in sorted((folder / name).iterdir())
                  if file.suffix.lower() in IMAGE_SUFFIXES and put_on_purpose(file.name)]  # fmt: skip
        if not inside:
            raise ConfigError(f"{folder / name} would be a class and holds no image; complete it, or move it away")
        files += [(file, classes[name]) for file in inside]
    return files


def _notes(folder: Path, classes: list[str]) -> tuple[str, ...]:
    """Return what of a folder of classes was passed over or assumed."""
    found = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    hidden = sorted(set(found) - set(classes))
    notes = [f"{len(hidden):,} hidden folders, passed over: {hidden[0]}"] if hidden else []
    notes += ["classes are in the order of their folders' numbers, not of their names"] * (classes != sorted(classes))
    return tuple(notes)


def _folder_source(files: list[tuple[Path, int]], name: str, notes: tuple[str, ...]) -> Source:
    def reduced(item: tuple[Path, int]) -> NDArray[np.uint8]:
        return _reduced(item[0], FILTERS[name])

    def read(start: int) -> Pieces:
        with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes side by side
            for low in range(start, len(files), PIECE):
                piece = files[low : low + PIECE]
                yield np.stack(list(pool.map(reduced, piece))), np.array([label for _, label in piece], np.int32)

    identity = f"{name} {stamp(file for file, _ in files)}"
    return Source(_made(name), len(files), read, identity, notes=notes)


def _made(source: str) -> str:
    """Return what a manifest says of images that were reduced here."""
    return f"full-size images, {SOURCES[source]}"


def _reduced(file: Path, reduce: Callable[[Image.Image], Image.Image]) -> NDArray[np.uint8]:
    """Return a full-size image, whatever its colours, as ``[3, 64, 64]``."""
    try:
        with Image.open(file) as image:
            return _channels_first(reduce(image.convert("RGB")))
    except UNREADABLE as error:
        raise DamagedFileError(f"{file} is not an image ({reason(error)}); fetch it again") from error


def _square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def box_bicubic(image: Image.Image) -> Image.Image:
    """Halve by boxes while twice the size or more, bring the shorter side to 64 by bicubic, take the centre."""
    while min(image.size) >= 2 * SIZE:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = SIZE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    return image.crop((left, top, left + SIZE, top + SIZE))


def lanczos(image: Image.Image) -> Image.Image:
    """Bring the central square to 64 pixels by Lanczos."""
    return _square(image).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def area(image: Image.Image) -> Image.Image:
    """Bring the central square to 64 pixels by means over areas, pixels on a border by their share in it.

    Means are exact and rounded once, halves up: Pillow's box filter would take or leave whole pixels.
    """
    square = np.asarray(_square(image), dtype=np.float64)  # [side, side, 3]
    side = len(square)
    starts, pixels = np.arange(SIZE)[:, None] * side, np.arange(side) * SIZE  # in units of 1/64 pixel
    overlap = np.minimum(starts + side, pixels + SIZE) - np.maximum(starts, pixels)
    weights = overlap.clip(min=0).astype(np.float64)  # [64, side]; whole numbers, and so are all sums below
    sums = np.einsum("ax,yxc->yac", weights, square, optimize=True)
    sums = np.einsum("by,yac->bac", weights, sums, optimize=True)
    return Image.fromarray(((2 * sums + side**2) // (2 * side**2)).astype(np.uint8))


def crop(image: Image.Image) -> Image.Image:
    """Take the central 64 pixels as torchvision does; smaller images get black borders."""
    left, top = _central(image.width), _central(image.height)
    return image.crop((left, top, left + SIZE, top + SIZE))


def _central(side: int) -> int:
    # an odd rest is halved to the even number, an odd border has the smaller half before
    return round((side - SIZE) / 2) if side > SIZE else -((SIZE - side) // 2)


FILTERS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "box-bicubic": box_bicubic, "lanczos": lanczos, "area": area, "crop": crop
}  # fmt: skip


# Shared


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
