"""Sets of samples that are one array, of grey levels or of floats in [-1, 1]."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.sample_set import BATCH, CHANNELS, UNREADABLE, SampleSet, damaged


def open_npz(path: Path) -> SampleSet:
    """Look at an ``.npz`` file: its ``arr_0``, or else its first array, is ``[N, H, W, C]``."""
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
                    raise damaged(path, error) from error
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
        raise damaged(path, error) from error
    if by_columns or dtype.hasobject or not shape:
        raise ConfigError(f"{path}: its array is not one of numbers in C order; save it with numpy.ascontiguousarray")
    return shape, dtype


def open_tensor(path: Path) -> SampleSet:
    """Look at a ``.pt`` file of one tensor ``[N, C, H, W]``; nothing in it is unpickled."""
    try:
        images = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise damaged(path, error) from error
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
    if shape[0] not in CHANNELS.values() or min(shape) < 1:
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
