"""Sets of samples that others made, read in pieces: folders and zips of PNG files, npz files, tensor files."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tractbench.errors import ConfigError, DamagedFileError

BATCH = 500
LOSSY = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MODES = {"L": 1, "RGB": 3}
DEPTH = 24
"""Where a PNG file says how many bits a channel has."""

UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
MODE_REMEDY = "save 8-bit RGB without alpha channel or palette (grey only for grey data)"


@dataclass(frozen=True)
class SampleSet:
    """Samples in a fixed order; a sampler's own can be one too.

    Attributes:
        source: where they come from.
        count: how many there are.
        shape: (C, H, W).
        floats: whether they are floats in [-1, 1], to be quantised by the protocol, and not grey levels.
        read: yields them in batches ``[B, C, H, W]``, uint8 or floats, from the first one on at each call.
    """

    source: str
    count: int
    shape: tuple[int, int, int]
    floats: bool
    read: Callable[[], Iterator[Tensor]]


def open_samples(path: Path) -> SampleSet:
    """Look at a set of samples without reading it whole.

    A folder (with its subfolders) or a ``.zip`` of PNG files, in the order of their names; an ``.npz`` file whose
    ``arr_0``, or else its first array, is ``[N, H, W, C]``; a ``.pt`` or ``.pth`` file of one tensor ``[N, C, H, W]``.
    Arrays are uint8 grey levels or floats in [-1, 1]. Nothing in a file is unpickled.

    Raises:
        ConfigError: there is nothing there, or it is of no such kind; the message says what to give.
        DamagedFileError: the file cannot be read; reading it later may raise this too.
    """
    if path.is_dir():
        names = sorted((p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()), key=_by_name)
        return _pictures(path, names, lambda name: (path / name).open("rb"))
    if not path.exists():
        raise ConfigError(f"no samples at {path}; give a folder or zip of PNG files, an .npz or a .pt file")
    kinds = {".zip": _open_zip, ".npz": _open_npz, ".pt": _open_tensor, ".pth": _open_tensor}
    if path.suffix.lower() not in kinds:
        raise ConfigError(f"samples {path}: give a folder or zip of PNG files, an .npz or a .pt file")
    try:
        return kinds[path.suffix.lower()](path)
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise _damaged(path, error) from error


def _by_name(name: str) -> tuple[str, ...]:
    """Sort folder by folder, in the same order on every system."""
    return tuple(name.split("/"))


def _damaged(where: object, error: Exception) -> DamagedFileError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return DamagedFileError(f"{where} cannot be read ({reason}); make or fetch it again")


def _open_zip(path: Path) -> SampleSet:
    with zipfile.ZipFile(path) as archive:
        members = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = sorted((name for name in members if not name.startswith("__MACOSX/")), key=_by_name)
    archive = zipfile.ZipFile(path)  # stays open as long as the set
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
                if image.mode not in MODES or bits != b"\x08":  # PIL would rescale other depths without a word
                    depth = f"mode {image.mode}, {bits[0]} bits"
                    raise ConfigError(f"{path}/{name} has {depth}; {MODE_REMEDY}")
                pixels = np.asarray(image)
    except (*UNREADABLE, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _damaged(f"{path}/{name}", error) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def format_shape(shape: tuple[int, ...]) -> str:
    """Write a shape as users say it: 32x32 RGB."""
    channels, height, width = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def _open_npz(path: Path) -> SampleSet:
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".npy")]
        member = "arr_0.npy" if "arr_0.npy" in members else next(iter(members), "")
        if not member:
            raise ConfigError(f"{path} holds no array; save the samples as arr_0 [N, H, W, C]")
        with archive.open(member) as handle:
            (count, *size), dtype = _header(path, handle)
    if len(size) != 3:
        raise ConfigError(f"{path}: {member[:-4]} is {[count, *size]}; save the samples as [N, H, W, C]")
    height, width, channels = size
    _check_layout(path, (channels, height, width), "[N, H, W, C]")
    _check_type(path, str(dtype), floats=dtype.kind == "f", grey=dtype == np.uint8)

    def read() -> Iterator[Tensor]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as handle:
            _header(path, handle)
            for first in range(0, count, BATCH):
                rows = min(BATCH, count - first)
                length = rows * height * width * channels * dtype.itemsize
                try:
                    content = handle.read(length)
                except UNREADABLE as error:
                    raise _damaged(path, error) from error
                if len(content) < length:
                    raise DamagedFileError(f"{path} ends before its {count:,} images; make or fetch it again")
                batch = np.frombuffer(content, dtype).reshape(rows, height, width, channels).transpose(0, 3, 1, 2)
                yield torch.from_numpy(np.array(batch, dtype=dtype.newbyteorder("="), order="C"))

    return _array(path, count, (channels, height, width), dtype.kind == "f", read)


def _header(path: Path, handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read an array's header: shape and type; its rows follow."""
    try:
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read(handle)
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    if by_columns or dtype.hasobject or not shape:
        raise ConfigError(f"{path}: its array is not one of numbers in C order; save it with numpy.ascontiguousarray")
    return shape, dtype


def _open_tensor(path: Path) -> SampleSet:
    try:
        images = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise _damaged(path, error) from error
    if not isinstance(images, Tensor) or images.ndim != 4:
        what = f"a tensor {list(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise ConfigError(f"{path} holds {what}; save one tensor [N, C, H, W] with torch.save")
    count, channels, height, width = images.shape
    _check_layout(path, (channels, height, width), "[N, C, H, W]")
    floats = images.dtype.is_floating_point
    _check_type(path, str(images.dtype), floats=floats, grey=images.dtype == torch.uint8)

    def read() -> Iterator[Tensor]:
        yield from torch.split(images, BATCH)

    return _array(path, count, (channels, height, width), floats, read)


def _check_layout(path: Path, shape: tuple[int, int, int], layout: str) -> None:
    if shape[0] not in MODES.values() or min(shape) < 1:
        raise ConfigError(
            f"{path}: read as {layout}, its images have {shape[0]} channels; save it as {layout}, C 3 or 1"
        )


def _check_type(path: Path, dtype: str, *, floats: bool, grey: bool) -> None:
    if not (floats or grey):
        raise ConfigError(f"{path} holds {dtype}; save uint8 grey levels, or floats in [-1, 1]")


def _array(
    path: Path, count: int, shape: tuple[int, int, int], floats: bool, read: Callable[[], Iterator[Tensor]]
) -> SampleSet:
    """Make a set of an array's images; floats are looked through once, as their range says what they are."""
    if count and floats:
        low, high = math.inf, -math.inf
        for batch in read():
            if not batch.isfinite().all():
                raise ConfigError(f"{path} holds values that are not finite; leave those samples out")
            low, high = min(low, float(batch.min())), max(high, float(batch.max()))
        if low < -1 or high > 1:
            raise ConfigError(
                f"{path} holds floats from {low:.4g} to {high:.4g}; clip them to [-1, 1], or save grey levels as uint8"
            )
        if low >= 0:
            raise ConfigError(f"{path} holds floats from {low:.4g} to {high:.4g}; scale them to [-1, 1] by 2 x - 1")
    return SampleSet(str(path), count, shape, floats, read)
