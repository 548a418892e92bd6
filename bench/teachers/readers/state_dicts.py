"""State dicts inside PyTorch and safetensors files: which weights are taken where a file holds several.

Training scripts keep the raw weights beside their average, under names of their own, and wrap networks in others, which
puts words before every name. The average is what authors publish figures of, so it is taken, and what was taken is
said; where a file leaves a choice, it is asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tractbench.errors import ConfigError, DamagedFileError, one_line

LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How files of torch's old format begin."""

ROOT = "."
"""The key of names that stand at a file's top, with nothing before them."""

WRAPPERS = ("module", "_orig_mod")
"""What DataParallel and torch.compile put before every name of one network."""

AVERAGES = frozenset({"ema", "ema_model", "model_ema", "ema_net", "net_ema", "averaged_model"})
NETWORKS = frozenset({"net", "model", "network", "online_model", "unet", "denoiser"}) | AVERAGES
"""What puts the names of networks side by side in one dict."""

BOOKKEEPING = frozenset({"n_averaged", "initted", "step", "num_updates", "decay"})
"""Counters that averages keep beside their weights, single numbers."""

TRAINERS = ("optim", "scheduler", "lr_scheduler", "scaler", "callbacks", "loops", "hyper_parameters")
"""Entries of a file, by how they begin, that are no network's."""

DEPTH = 5
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)


@dataclass(frozen=True)
class Weights:
    """One network's weights.

    Attributes:
        state: tensors by name, without what wrappers put before the names.
        taken: which of the file's weights they are, for people; None if there are no others.
    """

    state: dict[str, Tensor]
    taken: str | None


def is_torch(head: bytes) -> bool:
    """Whether a file that begins so is one of PyTorch."""
    return head.startswith((b"PK\x03\x04", LEGACY_TORCH))


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file that begins so and has so many bytes is one of safetensors."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def read_torch(path: Path, key: str | None = None) -> Weights:
    """Read the weights in a PyTorch file; nothing in it is executed.

    Args:
        path: the file.
        key: which of them, as the message that asks names them.

    Raises:
        ConfigError: there are several, and nothing says which.
        DamagedFileError: it cannot be read, or holds none.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        found: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a hostile or cut file may fail in any way
        reason = one_line(str(error))[:200] or type(error).__name__
        raise DamagedFileError(f"{path} is not a PyTorch file of tensors only: {reason}") from error
    return choose_weights(found, path, key)


def read_safetensors(path: Path, key: str | None = None) -> Weights:
    """Read the weights in a safetensors file; see :func:`read_torch`."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} is a damaged safetensors file ({one_line(str(error))}); fetch it again"
        ) from error
    return choose_weights(tensors, path, key)


def choose_weights(found: object, path: Path, key: str | None) -> Weights:
    """Return the weights that a file's contents are meant by: those of ``key``, else the average, else the only ones.

    Raises:
        ConfigError: there are several averages, or several networks and no average, or an average without names.
        DamagedFileError: there are no named tensors.
    """
    if not isinstance(found, dict) or not (states := dict(_states(found, ""))):
        raise DamagedFileError(f"{path} is not a state dict: names of tensors are needed and nothing else")
    names = ", ".join(states)
    averages = [name for name in states if _averaged(name)]
    nameless = list(_nameless(found, ""))
    if key is not None:
        if key not in states:
            raise ConfigError(f"--key {key}: {path} holds {names}; give one of them")
        chosen = key
    elif len(averages) == 1:
        chosen = averages[0]
    elif averages or len(states) > 1:
        what = "several averages" if averages else "several networks"
        raise ConfigError(f"{path} holds {what}: {', '.join(averages) or names}; say which one with --key NAME")
    elif nameless:
        raise ConfigError(
            f"{path} holds an average without names ({nameless[0]}), which cannot be read; --key {names} takes the "
            "raw weights instead"
        )
    else:
        (chosen,) = states
    others = [name for name in (*states, *nameless) if name != chosen]
    taken = f"{chosen}{' (averaged weights)' * _averaged(chosen)}, not {', '.join(others)}" if others else None
    return Weights({name: _plain(tensor, name, path) for name, tensor in states[chosen].items()}, taken)


def _states(found: Mapping[object, object], key: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every group of named tensors with its key: the names of the dicts around it, and the network's own."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in found.items():
        if not isinstance(name, str):
            continue
        if isinstance(value, Tensor):
            if name.rpartition(".")[2] in BOOKKEEPING and value.numel() == 1:
                continue
            prefix, own = _split(name)
            groups.setdefault(prefix, {})[own] = value
        elif isinstance(value, dict) and not name.startswith(TRAINERS) and key.count(".") < DEPTH:
            yield from _states(value, _joined(key, name))
    for prefix, group in groups.items():
        yield _joined(key, prefix) or ROOT, group


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key and name else key or name


def _split(name: str) -> tuple[str, str]:
    """Return the network that a name says it is of, and the rest of the name, without wrappers."""
    parts, networks = name.split("."), []
    while len(parts) > 1 and parts[0] in NETWORKS | {*WRAPPERS}:
        if parts[0] not in WRAPPERS:
            networks.append(parts[0])
        del parts[0]
    return ".".join(networks), ".".join(parts)


def _averaged(key: str) -> bool:
    return any(word in ("ema", "averaged") for word in key.replace(".", "_").lower().split("_"))


def _nameless(found: Mapping[object, object], key: str) -> Iterator[str]:
    """Yield the keys of averages that are lists of tensors."""
    for name, value in found.items():
        inner = _joined(key, str(name))
        if isinstance(value, dict) and key.count(".") < DEPTH:
            yield from _nameless(value, inner)
        elif isinstance(value, (list, tuple)) and value and (_averaged(inner) or "shadow" in inner):
            yield inner


def _plain(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Return a tensor as one of ordinary numbers with storage of its own kind.

    Raises:
        DamagedFileError: it is sparse, quantised, nested, complex or without values.
    """
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested:
        raise DamagedFileError(f"{path}: {name} is sparse, quantised, nested or without values; save it dense")
    if tensor.dtype in DTYPES or tensor.dtype == torch.bool:
        return tensor
    if not tensor.dtype.is_floating_point:
        raise DamagedFileError(f"{path}: {name} is of {tensor.dtype}; weights are real numbers")
    return tensor.float()  # float8, on which few operations are defined
