"""Named tensors and a JSON header in one safetensors file, written whole or not at all, one tensor at a time.

The format is documented by safetensors: the length of a JSON text in 8 little-endian bytes, the text (dtype, shape and
offsets of each tensor), then the tensors' bytes. The metadata hold the header, as JSON, and the sha256 of header and
tensors (:func:`tensors_digest`), by which damage is seen when the file is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tractbench.errors import DamagedFileError
from tractbench.io.files import write_atomic

HEADER, DIGEST = "header", "sha256"
_UNKNOWN = "0" * 64
_START = '{"__metadata__":{"' + DIGEST + '":"'
_ALIGNMENT = 8

_DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_plain(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write contiguous tensors by the library itself, in place.

    Raises:
        OSError: they cannot be written, with the system's number, which the library only has in its text.
    """
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        raise (OSError(number := int(found[1]), os.strerror(number)) if found else OSError(str(error))) from error


def tensors_digest(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """Return the sha256 of a header's text and of named tensors: names in order, dtypes, shapes and bytes."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        digest.update(_described(name, tensors[name]))
        digest.update(_raw(tensors[name]))
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> None:
    """Write tensors and a header; never more than one tensor is copied at a time, whatever its device and layout.

    Raises:
        StoreError: the folder cannot be written.
    """
    text = json.dumps(header)
    offsets, entries = _layout(tensors)
    metadata = {DIGEST: _UNKNOWN, HEADER: text}  # in this order: the digest is filled in at the end, where _START ends
    head = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    head += b" " * (-len(head) % _ALIGNMENT)

    def write(temporary: Path) -> None:
        digest = hashlib.sha256(text.encode())
        with temporary.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in sorted(tensors):
                raw = _raw(tensors[name])
                digest.update(_described(name, tensors[name]))
                digest.update(raw)
                file.seek(8 + len(head) + offsets[name])
                file.write(raw)
                del raw  # before the next one is copied
            file.seek(8 + len(_START))
            file.write(digest.hexdigest().encode())

    write_atomic(path, write)


def load_tensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Read tensors and header.

    Raises:
        DamagedFileError: the file is unreadable, truncated or changed; ``remedy`` says what the user can do.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        header = _parsed(metadata)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged ({type(error).__name__}); {remedy}") from error
    if tensors_digest(tensors, metadata[HEADER]) != metadata.get(DIGEST):
        raise DamagedFileError(f"{path} is damaged: it does not have the hash it was written with; {remedy}")
    return tensors, header


def read_header(path: Path) -> dict[str, object] | None:
    """Return a file's header without reading its tensors nor checking its hash; None if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as handle:
            return _parsed(handle.metadata() or {})
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _parsed(metadata: Mapping[str, str]) -> dict[str, object]:
    header = json.loads(metadata[HEADER])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header


def _layout(tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], dict[str, dict[str, object]]]:
    """Return where each tensor's bytes begin, wide dtypes first so that all are aligned, and entries that say it."""
    offsets: dict[str, int] = {}
    entries: dict[str, dict[str, object]] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        offsets[name], end = end, end + tensor.numel() * tensor.element_size()
        span = [offsets[name], end]
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
    return offsets, entries


def _described(name: str, tensor: Tensor) -> bytes:
    return f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode()


def _raw(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes in row-major order; a copy only if it lies elsewhere or in another layout."""
    data: memoryview = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data
