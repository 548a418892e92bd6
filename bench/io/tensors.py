"""Named tensors and a JSON header in one safetensors file, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tractbench.errors import DamagedFileError
from tractbench.io.files import write_atomic

DIGEST = "sha256"


def tensors_digest(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """Return the sha256 of named tensors - names, dtypes, shapes and bytes - and of a header."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a header; the file carries the hash of both, so that damage is seen when it is read."""
    data = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(header)
    metadata = {"header": text, DIGEST: tensors_digest(data, text)}
    write_atomic(path, lambda temporary: save_file(data, temporary, metadata=metadata))


def load_tensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and header.

    Raises:
        DamagedFileError: the file is unreadable, truncated or changed; ``remedy`` says what the user can do.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        header = json.loads(metadata["header"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged ({type(error).__name__}); {remedy}") from error
    if tensors_digest(tensors, metadata["header"]) != metadata.get(DIGEST):
        raise DamagedFileError(f"{path} is damaged: it does not have the hash it was written with; {remedy}")
    return tensors, header
