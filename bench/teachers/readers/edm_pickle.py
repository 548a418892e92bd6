"""Reads EDM's network pickles without importing or executing anything that the file names.

Tensors inside are files of torch's old format, which a second unpickler with a table of its own reads: torch's own
reader of them would execute whatever they hold.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tractbench.errors import DamagedFileError
from tractbench.io.pickles import Call, Inert, Known, NumpyType, TableUnpickler, encode, shown

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
DEPTH = 20
WRAPPERS = ("EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond")

SCALARS = {"f8": "d", "f4": "f", "i8": "q", "i4": "i", "b1": "?"}


class Node:
    """An object of the file: its class's name and its attributes.

    Attributes:
        class_name: name of the class, empty for a container.
        state: the attributes.
    """

    class_name = ""

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("an object's state is not a dict")
        self.state = state


class _Mapping(dict[str, Any]):
    """A dict with attribute access in the file."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a state for a dict")


class _Array(Inert):
    """A tensor, or a storage as a tensor of one axis."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _StorageType(Inert):
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


STORAGES: Known = {
    ("torch", "FloatStorage"): _StorageType(torch.float32),
    ("torch", "HalfStorage"): _StorageType(torch.float16),
    ("torch", "DoubleStorage"): _StorageType(torch.float64),
    ("torch", "LongStorage"): _StorageType(torch.int64),
}
"""All that a storage may name."""


def _persistent_object(meta: object) -> Node:
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise pickle.UnpicklingError("a persistent object that is not a class")
    if meta.get("version") != 6:
        raise pickle.UnpicklingError(f"persistent objects of version {shown(meta.get('version'))}, 6 is known")
    node = Node()
    name = meta.get("class_name")
    if not isinstance(name, str):
        raise pickle.UnpicklingError("a class without a name")
    node.class_name = name
    node.__setstate__(meta.get("state"))
    return node


def _whole(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(value) is int and value >= 0 for value in values):
        raise pickle.UnpicklingError(f"sizes or strides {shown(values)}")
    return values


def _tensor(storage: object, offset: object, size: object, stride: object, *ignored: object) -> _Array:
    if not isinstance(storage, _Array):
        raise pickle.UnpicklingError("a tensor without storage")
    (start,), sizes, strides = _whole((offset,)), _whole(size), _whole(stride)
    if len(sizes) != len(strides):
        raise pickle.UnpicklingError(f"sizes {sizes} with strides {strides}")
    last = start + sum((count - 1) * step for count, step in zip(sizes, strides, strict=True))
    if all(sizes) and (last >= storage.tensor.numel() or math.prod(sizes) > storage.tensor.numel()):
        raise pickle.UnpicklingError(f"a tensor that reaches outside its storage: {sizes}, {strides}, {start}")
    return _Array(storage.tensor.as_strided(sizes, strides, start if all(sizes) else 0))


def _parameter(tensor: object, *ignored: object) -> _Array:
    if not isinstance(tensor, _Array):
        raise pickle.UnpicklingError("a parameter without tensor")
    return tensor


def _scalar(kind: object, raw: object) -> int | float | bool:
    if not isinstance(kind, NumpyType) or kind.code not in SCALARS or not isinstance(raw, bytes):
        raise pickle.UnpicklingError(f"a NumPy scalar of type {shown(getattr(kind, 'code', kind))}")
    value: int | float | bool = struct.unpack(kind.order + SCALARS[kind.code], raw)[0]
    return value


class _StorageUnpickler(TableUnpickler):
    """Reads the small pickles at the start of a storage; its one persistent object becomes a tuple."""

    def persistent_load(self, key: object) -> object:
        if isinstance(key, tuple) and len(key) == 6 and key[0] == "storage" and key[5] is None:
            kind, name, _, count = key[1:5]
            if isinstance(kind, _StorageType) and isinstance(name, str) and type(count) is int and count >= 0:
                return (kind.dtype, name, count)
        raise pickle.UnpicklingError("a storage's reference")


def _storage(blob: object) -> _Array:
    """Read a storage, one whole file of torch's old format, as a view of its bytes."""
    if not isinstance(blob, bytes):
        raise pickle.UnpicklingError("a storage that is not bytes")
    file = io.BytesIO(blob)
    magic, version, system, reference, keys = (_StorageUnpickler(file, STORAGES).load() for _ in range(5))
    if (magic, version) != (MAGIC, VERSION):
        raise pickle.UnpicklingError("a storage without torch's magic numbers")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise pickle.UnpicklingError("a storage that is not little-endian")
    if not isinstance(reference, tuple) or keys != [reference[1]]:
        raise pickle.UnpicklingError("a storage whose keys differ")
    dtype, _, count = reference
    start = file.tell() + 8
    if struct.unpack("<q", blob[start - 8 : start])[0] != count or len(blob) - start != count * dtype.itemsize:
        raise pickle.UnpicklingError(f"a storage of {len(blob) - start} bytes for {count} elements")
    if count == 0:
        return _Array(torch.empty(0, dtype=dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of bytes that cannot be written; nobody writes them
        return _Array(torch.frombuffer(blob, dtype=dtype, count=count, offset=start))


PLAIN = {"object": Inert(), "dict": Inert(), "set": Call(set), "bytes": Call(lambda: b"")}
"""Python's own types; ``bytes`` for the empty one of protocol 0 to 2."""


def _reconstructed(kind: object, base: object, state: object) -> object:
    """Stand for ``copyreg._reconstructor``, by which protocols 0 and 1 make objects."""
    if kind is Node and base is PLAIN["object"] and state is None:
        return Node()
    if kind is _Mapping and base is PLAIN["dict"] and isinstance(state, dict):
        return _Mapping(state)
    raise pickle.UnpicklingError("an object of a class that is not known")


KNOWN: Known = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Call(_persistent_object),
    ("torch.nn.modules.container", "ModuleDict"): Node,
    ("collections", "OrderedDict"): Call(OrderedDict),
    ("dnnlib.util", "EasyDict"): _Mapping,
    ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): Call(_parameter),
    ("torch.storage", "_load_from_bytes"): Call(_storage),
    ("numpy.core.multiarray", "scalar"): Call(_scalar),
    ("numpy._core.multiarray", "scalar"): Call(_scalar),
    ("numpy", "dtype"): NumpyType,
    ("_codecs", "encode"): Call(encode),
    **{(module, name): stands for module in ("__builtin__", "builtins") for name, stands in PLAIN.items()},
    ("copy_reg", "_reconstructor"): Call(_reconstructed),
    ("copyreg", "_reconstructor"): Call(_reconstructed),
}
"""All that a file may name, and what it gets."""


class _Bounded:
    """A file that refuses to read more than there is, before memory is set aside for it."""

    def __init__(self, file: io.BufferedReader, size: int) -> None:
        self.file, self.size = file, size

    @property
    def left(self) -> int:
        return self.size - self.file.tell()

    def read(self, count: int = -1) -> bytes:
        if count > self.left:
            raise EOFError("the file ends early")
        return self.file.read(count)

    def readinto(self, buffer: bytearray) -> int:
        return self.file.readinto(buffer)

    def readline(self) -> bytes:
        return self.file.readline()

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, place: int) -> int:
        return self.file.seek(place)


def read_edm_pickle(path: Path) -> Node:
    """Return the network of an EDM snapshot, the object under ``ema``.

    Raises:
        DamagedFileError: the file is cut off, names anything unknown, or is not a snapshot.
    """
    try:
        with path.open("rb") as file:
            bounded = _Bounded(file, path.stat().st_size)
            found = TableUnpickler(bounded, KNOWN).load()
            left = bounded.left
    except Exception as error:  # a hostile file may fail in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedFileError(
            f"{path} is not an EDM snapshot that can be trusted: {reason}; fetch it again"
        ) from error
    if left:
        raise DamagedFileError(f"{path} has {left} bytes after its end; fetch it again")
    network = found.get("ema") if isinstance(found, dict) else None
    if not isinstance(network, Node) or network.class_name not in WRAPPERS:
        raise DamagedFileError(f"{path} holds no network under 'ema'; a snapshot of {', '.join(WRAPPERS)} is needed")
    return network


def named_tensors(node: Node, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's parameters, buffers and children's, under the names of its state dict and in its order.

    Raises:
        DamagedFileError: it is not a module, or has one in several places; ``path`` is named.
    """
    yield from _named_tensors(node, path, "", set())


def _named_tensors(node: Node, path: Path, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if prefix.count(".") > DEPTH:
        raise DamagedFileError(f"{path}: {prefix[:40]}... is nested too deep; fetch the file again")
    if id(node) in seen:  # modules that share children would be walked through again and again
        raise DamagedFileError(f"{path}: {prefix[:40]} is a module that was met before; fetch the file again")
    seen.add(id(node))
    for kind in ("_parameters", "_buffers"):
        for name, value in _entries(node, kind, path, prefix):
            if not isinstance(value, _Array):
                raise DamagedFileError(f"{path}: {prefix}{name} is not a tensor; fetch the file again")
            yield f"{prefix}{name}", value.tensor
    for name, child in _entries(node, "_modules", path, prefix):
        if not isinstance(child, Node):
            raise DamagedFileError(f"{path}: {prefix}{name} is not a module; fetch the file again")
        yield from _named_tensors(child, path, f"{prefix}{name}.", seen)


def _entries(node: Node, kind: str, path: Path, prefix: str) -> list[tuple[str, object]]:
    entries = node.state.get(kind)
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise DamagedFileError(f"{path}: {prefix or 'the network'} has no {kind}; fetch the file again")
    return [(name, value) for name, value in entries.items() if value is not None]
