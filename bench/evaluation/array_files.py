"""Arrays in npy, npz and PyTorch files, looked at without reading them whole; nothing in a file is unpickled."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation.sample_set import BATCH, damaged
from tractbench.io.archives import UNREADABLE, put_on_purpose, zip_members

FLOAT_BYTES = (2, 4, 8)
TORCH_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TORCH_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Array:
    """An array in a file.

    Attributes:
        file: the file.
        name: its name in the file; "" where it is alone.
        shape: its axes.
        dtype: its type.
        kind: ``floats`` of 16 to 64 bits, ``integers``, or ``other``, which cannot be read.
        rows: yields it piece by piece along the first axis.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Literal["floats", "integers", "other"]
    rows: Callable[[], Iterator[Tensor]]


def npy_arrays(path: Path) -> list[Array]:
    """Look at an ``.npy`` file."""
    return [_described(path, "", path.stat().st_size, lambda: path.open("rb"))]


def npz_arrays(path: Path) -> list[Array]:
    """Look at all arrays of an ``.npz`` file."""
    with zipfile.ZipFile(path) as archive:
        found = zip_members(archive, path)
    members = {name: info for name, info in found.items() if name.endswith(".npy") and put_on_purpose(name)}

    def opened(info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
        def open_member() -> IO[bytes]:
            return zipfile.ZipFile(path).open(info)  # the member's handle keeps the archive's file open

        return open_member

    return [_described(path, name[:-4], info.file_size, opened(info)) for name, info in members.items()]


def _described(path: Path, name: str, size: int, opened: Callable[[], IO[bytes]]) -> Array:
    """Read an array's header, and promise its rows."""
    with opened() as handle:
        shape, by_columns, dtype, header = _header(path, handle)
    if by_columns and len(shape) > 1:
        raise ConfigError(
            f"{path}: {name or 'its array'} is not in C order; save it with numpy.ascontiguousarray"
        )  # as columns lie together, no image could be read without the rest
    floats = dtype.kind == "f" and dtype.itemsize in FLOAT_BYTES
    kind: Literal["floats", "integers", "other"] = "floats" if floats else "integers" if dtype.kind in "iu" else "other"
    count, row = (shape[0], math.prod(shape[1:])) if shape else (0, 0)
    if header + count * row * dtype.itemsize > size and not dtype.hasobject:
        raise DamagedFileError(f"{path} ends before its {count:,} rows; make or fetch it again")

    def rows() -> Iterator[Tensor]:
        with opened() as handle:
            _header(path, handle)
            for first in range(0, count, BATCH):
                take = min(BATCH, count - first)
                try:
                    content = handle.read(take * row * dtype.itemsize)
                except UNREADABLE as error:
                    raise damaged(path, error) from error
                if len(content) < take * row * dtype.itemsize:
                    raise DamagedFileError(f"{path} ends before its {count:,} rows; make or fetch it again")
                batch = np.frombuffer(content, dtype).reshape(take, *shape[1:])
                # torch compares no unsigned integers of more than a byte; what wraps becomes negative, no grey level
                wide = dtype.kind == "u" and dtype.itemsize > 1
                yield torch.from_numpy(np.array(batch, np.int64 if wide else dtype.newbyteorder("="), order="C"))

    return Array(path, name, shape, str(dtype), kind, rows)


def _header(path: Path, handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read an array's header: shape, whether by columns, type, and its own length; the rows follow."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = np.lib.format.read_magic(handle)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(handle)
    except Exception as error:  # a header is parsed as Python's text, and fails like one
        raise damaged(path, error) from error
    if any(axis < 0 for axis in shape):
        raise DamagedFileError(f"{path}: an array of shape {shape}; make or fetch it again")
    return shape, by_columns, dtype, handle.tell()


def torch_arrays(path: Path) -> list[Array]:
    """Look at a file of PyTorch's: one tensor, or a dictionary of some."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it is asked to read
            # files of the old format, which are no zip, cannot be mapped
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise damaged(path, error) from error
    if isinstance(held, Tensor):
        return [_of_tensor(path, "", held)]
    if isinstance(held, dict):
        return [_of_tensor(path, str(name), value) for name, value in held.items() if isinstance(value, Tensor)]
    raise ConfigError(f"{path} holds a {type(held).__name__}; save one tensor [N, C, H, W] with torch.save")


def _of_tensor(path: Path, name: str, tensor: Tensor) -> Array:
    unusual = [word for word, yes in {"nested": tensor.is_nested, "meta": tensor.is_meta,
                                      "quantised": tensor.is_quantized,
                                      "sparse": tensor.layout != torch.strided}.items() if yes]  # fmt: skip
    if unusual:
        shape = () if tensor.is_nested else tuple(tensor.shape)
        return Array(path, name, shape, f"{unusual[0]} {tensor.dtype}", "other", lambda: iter(()))
    kinds: dict[torch.dtype, Literal["floats", "integers"]] = {
        **dict.fromkeys(TORCH_FLOATS, "floats"), **dict.fromkeys(TORCH_INTEGERS, "integers")
    }  # fmt: skip
    kind: Literal["floats", "integers", "other"] = kinds.get(tensor.dtype, "other")
    plain = tensor.detach()
    return Array(path, name, tuple(plain.shape), str(plain.dtype), kind, lambda: iter(torch.split(plain, BATCH)))
