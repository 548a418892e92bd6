"""Sets of samples that are PNG files, in a folder, a zip or a tar, in the order of their names."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.sample_set import BATCH, CHANNELS, SampleSet, damaged, format_shape
from tractbench.io.archives import UNREADABLE, split_litter, tar_members, zip_members

LOSSY = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
DISGUISED = {b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
"""How files of other formats begin, whatever they are called."""

KEEP_PNG = "save every sample as PNG, other formats lose or leave open what counts"

DEPTH = 24
"""Where a PNG file says how many bits a channel has."""

TAR_END = 1024
PACKERS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
"""How packed files begin, whatever they are called."""
PACKED = max(map(len, PACKERS))

MODE_REMEDY = "save 8-bit RGB without alpha channel or palette (grey only for grey data)"


def files_below(folder: Path) -> list[str]:
    """Return the files of a folder and its subfolders, linked ones too, as paths from it.

    Raises:
        ConfigError: a link leads to a folder that it lies in.
    """
    found: list[str] = []
    for here, folders, files in os.walk(folder, followlinks=True):
        above = {os.path.realpath(here)} | {str(parent) for parent in Path(os.path.realpath(here)).parents}
        for name in folders:
            if (Path(here) / name).is_symlink() and os.path.realpath(Path(here) / name) in above:
                raise ConfigError(f"{Path(here) / name} leads to a folder that it lies in; remove the link")
        found += [(Path(here) / name).relative_to(folder).as_posix() for name in files]
    return found


Files = Mapping[str, Callable[[], IO[bytes]]]
"""Files of a set by name, and what opens each."""


def open_folder(path: Path) -> SampleSet:
    """Look at a folder, with its subfolders, of PNG files."""

    @contextmanager
    def files() -> Iterator[Files]:
        yield {name: partial(_opened, path / name) for name in files_below(path)}

    return _pictures(path, files)


def _opened(file: Path) -> IO[bytes]:
    return file.open("rb")


def open_zip(path: Path) -> SampleSet:
    """Look at a zip of PNG files."""

    @contextmanager
    def files() -> Iterator[Files]:
        with zipfile.ZipFile(path) as archive:
            yield {name: partial(archive.open, info) for name, info in zip_members(archive, path).items()}

    return _pictures(path, files)


def open_tar(path: Path) -> SampleSet:
    """Look at a tar of PNG files, packed or not, such as a webdataset's shard."""

    @contextmanager
    def files() -> Iterator[Files]:
        with tarfile.open(path) as archive:
            yield {name: partial(_extracted, archive, member) for name, member in tar_members(archive, path).items()}

    if path.suffix.lower() == ".tar" and _without_end(path):  # those that are packed have a sum of their own
        raise DamagedFileError(f"{path} ends before its end; make or fetch it again")
    return _pictures(path, files)


def _without_end(path: Path) -> bool:
    """Whether a tar lacks the empty blocks at its end, without which nobody knows how many files it had."""
    if path.stat().st_size < TAR_END:
        return True
    with path.open("rb") as handle:
        start = handle.read(PACKED)
        handle.seek(-TAR_END, os.SEEK_END)
        return handle.read() != bytes(TAR_END) and not start.startswith(PACKERS)


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no file")
    return file


def _pictures(path: Path, files: Callable[[], AbstractContextManager[Files]]) -> SampleSet:
    """Make a set of PNG files; the first one decides the shape."""
    with files() as found:
        names, litter = split_litter(found)
        shape, pictures = _first(path, names, found)

    def read() -> Iterator[Tensor]:
        with files() as found:
            for first in range(0, len(pictures), BATCH):
                batch = [_same_size(path, name, found, pictures[0], shape) for name in pictures[first : first + BATCH]]
                yield torch.from_numpy(np.stack(batch))

    others = sorted(set(names) - set(pictures))
    notes = [f"{len(left):,} {what}, passed over: {left[0]}" + ", ..." * (len(left) > 1)
             for left, what in ((litter, "hidden files"), (others, "files that are no PNG")) if left]  # fmt: skip
    return SampleSet(str(path), len(pictures), shape, False, read, tuple(notes))


def _first(path: Path, names: list[str], files: Files) -> tuple[tuple[int, int, int], list[str]]:
    """Return the shape of the first picture, and the names of all."""
    pictures = [name for name in names if name.lower().endswith(".png")]
    lossy = [name for name in names if name.lower().endswith(LOSSY)]
    if lossy or not pictures:
        what = f"{lossy[0]} is no PNG file" if lossy else "there is no PNG file in it"
        raise ConfigError(f"{path}: {what}; {KEEP_PNG}")
    return _picture(path, pictures[0], files).shape, pictures


def _same_size(path: Path, name: str, files: Files, first: str, shape: tuple[int, int, int]) -> Any:
    picture = _picture(path, name, files)
    if picture.shape != shape:
        sizes = f"{format_shape(picture.shape)}, the first one, {first}, {format_shape(shape)}"
        raise ConfigError(f"{path}/{name} is {sizes}; mend it or leave it out")
    return picture


def _picture(path: Path, name: str, files: Files) -> Any:
    """Decode a PNG file to ``[C, H, W]`` uint8."""
    from PIL import Image, UnidentifiedImageError

    try:
        with files[name]() as handle:
            start = handle.read(DEPTH + 1)
            bits = start[DEPTH:]
            for begins, kind in DISGUISED.items():
                if start.startswith(begins):
                    raise ConfigError(f"{path}/{name} is a {kind} file that is called PNG; {KEEP_PNG}")
            handle.seek(0)
            with Image.open(handle, formats=("PNG",)) as image:
                if image.mode not in CHANNELS or bits != b"\x08":  # PIL would rescale other depths without a word
                    depth = f"mode {image.mode}, {bits[0]} bits"
                    raise ConfigError(f"{path}/{name} has {depth}; {MODE_REMEDY}")
                pixels = np.asarray(image)
    except (*UNREADABLE, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise damaged(f"{path}/{name}", error) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
