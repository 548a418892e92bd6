"""Sets of samples that are PNG files, in a folder or a zip, in the order of their names."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tractbench.errors import ConfigError
from tractbench.evaluation.sample_set import BATCH, CHANNELS, UNREADABLE, SampleSet, damaged, format_shape

LOSSY = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
DEPTH = 24
"""Where a PNG file says how many bits a channel has."""

MODE_REMEDY = "save 8-bit RGB without alpha channel or palette (grey only for grey data)"


def open_folder(path: Path) -> SampleSet:
    """Look at a folder, with its subfolders, of PNG files."""
    names = sorted((p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()), key=_by_name)
    return _pictures(path, names, lambda name: (path / name).open("rb"))


def open_zip(path: Path) -> SampleSet:
    """Look at a zip of PNG files; it stays open as long as the set."""
    with zipfile.ZipFile(path) as archive:
        members = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = sorted((name for name in members if not name.startswith("__MACOSX/")), key=_by_name)
    archive = zipfile.ZipFile(path)
    return _pictures(path, names, archive.open)


def _pictures(path: Path, names: list[str], open_file: Callable[[str], IO[bytes]]) -> SampleSet:
    """Make a set of PNG files; the first one decides the shape."""
    pictures = [name for name in names if name.lower().endswith(".png")]
    lossy = [name for name in names if name.lower().endswith(LOSSY)]
    if lossy or not pictures:
        what = f"{lossy[0]} is no PNG file" if lossy else "there is no PNG file in it"
        raise ConfigError(f"{path}: {what}; save every sample as PNG, other formats lose or leave open what counts")
    shape = _picture(path, pictures[0], open_file).shape

    def same_size(name: str) -> Any:
        picture = _picture(path, name, open_file)
        if picture.shape != shape:
            sizes = f"{format_shape(picture.shape)}, the first one {format_shape(shape)}"
            raise ConfigError(f"{path}/{name} is {sizes}; mend it or leave it out")
        return picture

    def read() -> Iterator[Tensor]:
        for first in range(0, len(pictures), BATCH):
            yield torch.from_numpy(np.stack([same_size(name) for name in pictures[first : first + BATCH]]))

    return SampleSet(str(path), len(pictures), shape, False, read)


def _picture(path: Path, name: str, open_file: Callable[[str], IO[bytes]]) -> Any:
    """Decode a PNG file to ``[C, H, W]`` uint8."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open_file(name) as handle:
            bits = handle.read(DEPTH + 1)[DEPTH:]
            handle.seek(0)
            with Image.open(handle, formats=("PNG",)) as image:
                if image.mode not in CHANNELS or bits != b"\x08":  # PIL would rescale other depths without a word
                    depth = f"mode {image.mode}, {bits[0]} bits"
                    raise ConfigError(f"{path}/{name} has {depth}; {MODE_REMEDY}")
                pixels = np.asarray(image)
    except (*UNREADABLE, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise damaged(f"{path}/{name}", error) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _by_name(name: str) -> tuple[str, ...]:
    """Sort folder by folder, in the same order on every system."""
    return tuple(name.split("/"))
