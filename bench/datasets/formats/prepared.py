"""Images on disk: one memory-mapped uint8 array a split, with a manifest that says what it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tractbench.datasets.formats.half_made import HalfMade
from tractbench.errors import ConfigError, DamagedFileError, StoreError
from tractbench.io.cache import cache_dir
from tractbench.io.files import file_name, write_atomic
from tractbench.io.seals import sealed, unsealed
from tractbench.progress import Progress

Batch = tuple[NDArray[np.uint8], NDArray[np.int32]]
"""Images ``[B, C, H, W]`` and their labels ``[B]``."""

Pieces = Generator[Batch, None, None]
"""Consecutive batches."""

LABEL = np.dtype("<i4")


@dataclass(frozen=True)
class Source:
    """Where a split's images come from.

    Attributes:
        name: what it is, for the manifest: kind of files, and the filter that made the pixels.
        count: how many images there are; None if that shows only at the end.
        read: yields the images from a given index on, in pieces.
        identity: changes whenever the files do (see :func:`stamp`); a half-made conversion is only continued from the
            same files.
        labelled: whether the files say the images' classes; labels are -1 where they do not.
        notes: what of the files was passed over or assumed.
    """

    name: str
    count: int | None
    read: Callable[[int], Pieces]
    identity: str
    labelled: bool = True
    notes: tuple[str, ...] = ()


class Manifest(BaseModel):
    """What a prepared split is.

    Attributes:
        dataset: data set it belongs to.
        split: ``train`` or ``held_out``.
        source: what it was made from.
        count: number of images.
        shape: (C, H, W).
        sha256: of all pixels, then all labels (little-endian int32).
        deviation: how it differs from the published split; then it never stands for it.
        made_by: version of this package.
        made_from: the source's identity; "" where an earlier release did not write it.
        labelled: whether the images' classes are known.
        notes: what of the files was passed over or assumed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    split: str
    source: str
    count: int
    shape: tuple[int, int, int]
    sha256: str
    deviation: str | None = None
    made_by: str
    made_from: str = ""
    labelled: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """A prepared split: images ``[N, C, H, W]`` uint8 and labels ``[N]`` int64, mapped from their file, not read."""

    manifest: Manifest
    images: Tensor
    labels: Tensor


def stamp(files: Iterable[Path]) -> str:
    """Return what changes whenever files do: the sha256 of their paths, sizes and times of change."""
    digest = hashlib.sha256()
    for file in files:
        found = file.stat()
        digest.update(f"{file.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def folder_of(dataset: str) -> Path:
    """Return the folder of a prepared data set."""
    return cache_dir() / "data" / file_name(dataset)


def _paths(dataset: str, split: str) -> tuple[Path, Path, Path]:
    folder = folder_of(dataset)
    return folder / f"{split}.json", folder / f"{split}.pixels", folder / f"{split}.labels"


def content_sha256(images: Tensor, labels: Tensor | None) -> str:
    """Return the sha256 of all pixels ``[N, C, H, W]``, then all labels ``[N]``, as a manifest has it."""
    digest = hashlib.sha256(images.contiguous().numpy().tobytes())
    if labels is not None:
        digest.update(labels.numpy().astype(LABEL).tobytes())
    return digest.hexdigest()


def read_manifest(dataset: str, split: str) -> Manifest | None:
    """Read the manifest of a prepared split and nothing else; None if it is not there.

    Raises:
        DamagedFileError: it cannot be read or is of something else.
    """
    path, remedy = _paths(dataset, split)[0], _remedy(dataset)
    if not path.exists():
        return None
    try:
        manifest = Manifest.model_validate(unsealed(json.loads(path.read_text(encoding="utf-8-sig"))))
    except (OSError, ValueError, AttributeError) as error:  # a ValidationError is a ValueError
        raise DamagedFileError(f"{path} is damaged ({str(error).splitlines()[0]}); {remedy}") from error
    if (manifest.dataset, manifest.split) != (dataset, split):
        raise DamagedFileError(f"{path} is of {manifest.dataset} {manifest.split}; {remedy}")
    return manifest


def _remedy(dataset: str) -> str:
    return f"prepare it again: tractbench data prepare {dataset} PATH --force"


def open_split(dataset: str, split: str) -> Split | None:
    """Open a prepared split without reading its images; None if it is not there.

    Raises:
        DamagedFileError: the manifest cannot be read or is of something else, or the files have another size than it
            says.
    """
    manifest = read_manifest(dataset, split)
    if manifest is None:
        return None
    path, pixels, labels = _paths(dataset, split)
    try:
        sizes = pixels.stat().st_size, labels.stat().st_size
    except OSError as error:
        raise DamagedFileError(f"{path} is damaged ({error}); {_remedy(dataset)}") from error
    shape = (manifest.count, *manifest.shape)
    if sizes != (int(np.prod(shape)), manifest.count * LABEL.itemsize):
        raise DamagedFileError(f"{pixels} is not of {manifest.count:,} images; {_remedy(dataset)}")
    mapped = np.memmap(pixels, np.uint8, "c", shape=shape)  # copy on write: nobody writes, and torch asks for writable
    held = np.fromfile(labels, LABEL).astype(np.int64)
    return Split(manifest, torch.from_numpy(mapped), torch.from_numpy(held))


def check_split(found: Split) -> None:
    """Read a prepared split whole, once in a process while its files stay as they are.

    Raises:
        DamagedFileError: it has another hash than its manifest.
    """
    dataset, split, sha256 = found.manifest.dataset, found.manifest.split, found.manifest.sha256
    paths = _paths(dataset, split)[1:]
    stamps = tuple((path.absolute(), s.st_size, s.st_mtime_ns, s.st_ino) for path in paths for s in (path.stat(),))
    if _stamped_digest(paths, stamps) != sha256:
        raise DamagedFileError(f"{paths[0]} or {paths[1].name} is not as it was prepared; {_remedy(dataset)}")


@lru_cache(maxsize=16)
def _stamped_digest(paths: tuple[Path, Path], _stamps: tuple[tuple[Path, int, int, int], ...]) -> str:
    return _digest(paths, "hashing", Progress())


def prepare_split(
    dataset: str,
    split: str,
    source: Source,
    shape: tuple[int, int, int],
    classes: int,
    expected: int,
    progress: Progress,
    *,
    deviation: str | None = None,
    allow_deviation: bool = False,
    force: bool = False,
) -> Manifest:
    """Convert a source into a prepared split; an interrupted conversion goes on where it stopped.

    The manifest is written last: before that there is no split.

    Args:
        dataset: the data set's name.
        split: ``train`` or ``held_out``.
        source: where the images come from.
        shape: (C, H, W) that every image must have.
        classes: labels are below this.
        expected: how many images the published split has.
        progress: draws the bar.
        deviation: how the files differ from the published ones.
        allow_deviation: take another number of images; the manifest says so.
        force: make it again although it is there.

    Raises:
        ConfigError: another number of images, or an earlier conversion that deviates, without ``allow_deviation``.
        DamagedFileError: images of another shape, labels out of range.
        StoreError: the cache cannot be written, or another process prepares the same split.
    """
    manifest_path, pixels, labels = _paths(dataset, split)
    if not force and (found := open_split(dataset, split)):
        there = found.manifest.deviation
        if there and not allow_deviation:
            raise ConfigError(f"{dataset} {split} is here with a deviation: {there}; add --force to replace it")
        if found.manifest.made_from != source.identity:
            raise ConfigError(
                f"{dataset} {split} is already prepared, from other files ({found.manifest.source}); add --force to "
                "replace it by these, or leave it as it is"
            )
        progress.message(f"{dataset} {split} is already prepared; --force converts it again")
        return found.manifest
    for note in source.notes:
        progress.message(f"{dataset} {split}: {note}")
    _check_count(dataset, split, source.count, expected, allow_deviation)
    try:
        pixels.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(pixels.parent / f".{split}.lock", timeout=0):
            count = _convert(pixels, labels, source, shape, classes, f"preparing {dataset} {split}", progress)
            wrong_count = _check_count(dataset, split, count, expected, allow_deviation)
            manifest = Manifest(
                dataset=dataset,
                split=split,
                source=source.name,
                count=count,
                shape=shape,
                sha256=_digest((_part(pixels), _part(labels)), f"hashing {dataset} {split}", progress),
                deviation="; ".join(filter(None, (deviation, wrong_count))) or None,
                made_by=version("tractbench"),
                made_from=source.identity,
                labelled=source.labelled,
                notes=source.notes,
            )
            manifest_path.unlink(missing_ok=True)
            _part(pixels).replace(pixels)
            _part(labels).replace(labels)
            write_atomic(manifest_path, json.dumps(sealed(manifest.model_dump(mode="json")), indent=2) + "\n")
            _part(manifest_path).unlink(missing_ok=True)
    except Timeout as error:
        raise StoreError(f"{pixels.parent} is being prepared by another process; wait for it") from error
    except OSError as error:
        raise StoreError(
            f"cannot write {pixels.parent}: {error.strerror or error}; set TRACTBENCH_CACHE to a folder with room"
        ) from error
    return manifest


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _check_count(dataset: str, split: str, count: int | None, expected: int, allow: bool) -> str | None:
    """Return how the number of images deviates from the published one, None if it does not."""
    if count == 0:
        raise ConfigError(f"{dataset} {split}: the files hold no image; give others")
    if count in (None, expected):
        return None
    deviation = f"{count:,} images instead of {expected:,}"
    if not allow:
        raise ConfigError(
            f"{dataset} {split}: {deviation}; complete the files, or add --allow-deviation for data that never "
            "stand for the published set"
        )
    return deviation


def _convert(
    pixels: Path,
    labels: Path,
    source: Source,
    shape: tuple[int, int, int],
    classes: int,
    description: str,
    progress: Progress,
) -> int:
    """Append a source's images to the half-made files, from the first that is missing; return their number.

    What is there is only continued if it has the hash that it was left with.
    """
    state, part, label_part = _part(pixels.with_suffix(".json")), _part(pixels), _part(labels)
    size = int(np.prod(shape))
    kept = HalfMade.read(state, source.identity, (part, size), (label_part, LABEL.itemsize))
    if kept is None:
        if state.exists() and part.exists() and part.stat().st_size:
            progress.message(f"{part} is of other files or not as it was left; it is made from the start")
        kept = HalfMade()
        part.write_bytes(b"")
        label_part.write_bytes(b"")
    done = kept.images
    with part.open("r+b") as image_file, label_part.open("r+b") as label_file:
        image_file.truncate(done * size)
        label_file.truncate(done * LABEL.itemsize)
        image_file.seek(0, os.SEEK_END)
        label_file.seek(0, os.SEEK_END)
        with (
            progress.task(description, source.count or 0, "image", done) as task,
            closing(source.read(done)) as pieces,
        ):
            for images, classes_of in pieces:
                if images.shape[1:] != shape or images.dtype != np.uint8:
                    raise DamagedFileError(
                        f"{source.name}: image {done} is {images.shape[1:]} {images.dtype}, {shape} uint8 is needed"
                    )
                if len(images) != len(classes_of):
                    raise DamagedFileError(
                        f"{source.name}: {len(images)} images but {len(classes_of)} labels from image {done} on; "
                        "fetch the files again"
                    )
                wrong = np.flatnonzero((classes_of < 0) | (classes_of >= classes))
                if len(wrong) and source.labelled:
                    index = done + int(wrong[0])
                    raise DamagedFileError(
                        f"{source.name}: image {index} has label {classes_of[wrong[0]]}, labels are 0 to {classes - 1}"
                    )
                written = np.ascontiguousarray(images).tobytes(), classes_of.astype(LABEL).tobytes()
                for file, content in zip((image_file, label_file), written, strict=True):
                    file.write(content)
                    file.flush()
                done += len(images)
                kept.add(len(images), *written)
                kept.write(state, source.identity)
                task.advance(len(images))
        for file in (image_file, label_file):
            os.fsync(file.fileno())
    return done


def _digest(paths: tuple[Path, Path], description: str, progress: Progress) -> str:
    digest = hashlib.sha256()
    with progress.task(description, sum(path.stat().st_size for path in paths), "B") as task:
        for path in paths:
            with path.open("rb") as file:
                while piece := file.read(1 << 22):
                    digest.update(piece)
                    task.advance(len(piece))
    return digest.hexdigest()


def verify_split(dataset: str, split: str, progress: Progress) -> bool:
    """Read a prepared split whole and return whether it has the hash of its manifest.

    Raises:
        ConfigError: it is not there.
    """
    found = open_split(dataset, split)
    if found is None:
        raise ConfigError(f"{dataset} {split} is not prepared; tractbench data prepare {dataset} PATH")
    return _digest(_paths(dataset, split)[1:], f"hashing {dataset} {split}", progress) == found.manifest.sha256
