"""Reads the reference statistics that EDM2 publishes as pickles, without importing or executing what they name.

A file is ``{"fid": {"mu": ..., "sigma": ...}, "fd_dinov2": ...}``, its arrays as NumPy pickles them.
"""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tractbench.errors import DamagedFileError
from tractbench.io.archives import reason
from tractbench.io.pickles import Call, Inert, Known, NumpyType, TableUnpickler, encode

METRIC = "fid"
"""The key of the statistics of Inception features."""

FLOATS = frozenset({"f4", "f8"})

LARGEST = 1 << 30
"""Bytes; the statistics of three feature spaces are a tenth of it."""


class _Array:
    """An array of the file: floats in C order and nothing else."""

    def __init__(self, *ignored: object) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: object) -> None:
        match state:
            case (_, tuple() as shape, NumpyType() as kind, False, bytes() as raw):
                self.values = _values(raw, kind, shape)
            case _:
                raise pickle.UnpicklingError("an array that is not one of floats in C order")


def _values(raw: object, kind: object, shape: object) -> np.ndarray[Any, np.dtype[Any]]:
    if not isinstance(raw, bytes | bytearray) or not isinstance(kind, NumpyType) or kind.code not in FLOATS:
        raise pickle.UnpicklingError(f"an array of {getattr(kind, 'code', kind)!r}, not of floats")
    if not isinstance(shape, tuple) or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape!r}")
    dtype = np.dtype(f"{kind.order}{kind.code}")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise pickle.UnpicklingError(f"an array of shape {shape} in {len(raw)} bytes")
    return np.frombuffer(raw, dtype).reshape(shape)


def _from_buffer(raw: object, kind: object, shape: object, order: object) -> _Array:
    """Stand for NumPy's function of protocol 5."""
    if order != "C":
        raise pickle.UnpicklingError(f"an array in order {order!r}")
    array = _Array()
    array.values = _values(raw, kind, shape)
    return array


KNOWN: Known = {
    ("numpy.core.multiarray", "_reconstruct"): Call(_Array),
    ("numpy._core.multiarray", "_reconstruct"): Call(_Array),
    ("numpy.core.numeric", "_frombuffer"): Call(_from_buffer),
    ("numpy._core.numeric", "_frombuffer"): Call(_from_buffer),
    ("numpy", "ndarray"): Inert(),
    ("numpy", "dtype"): NumpyType,
    ("_codecs", "encode"): Call(encode),
}
"""All that a file may name."""


def read_edm2(path: Path) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Return ``mu`` and ``sigma`` of the Inception features.

    Raises:
        DamagedFileError: it holds something else.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        held = TableUnpickler(io.BytesIO(path.read_bytes()), KNOWN).load()
        statistics = held[METRIC]
        return {name: statistics[name].values for name in ("mu", "sigma")}
    except Exception as error:  # a hostile or damaged file may fail in any way
        raise DamagedFileError(
            f"{path} holds no statistics of EDM2's for '{METRIC}' ({reason(error)}); fetch it again, or give an npz"
        ) from error
