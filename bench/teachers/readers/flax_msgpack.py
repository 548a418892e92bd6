"""Reads the flax checkpoints of progressive distillation's teachers into the names of the PyTorch port."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np
import torch
from torch import Tensor

from tractbench.errors import DamagedFileError

ARRAY, SCALAR = 1, 3
DTYPES = ("float32", "float16", "float64", "int32", "int64", "uint32")
ENTRIES = 100_000
"""More layers than any network has."""

Leaves = dict[str, np.ndarray]
"""Arrays by path, such as ``down_0.block_1/conv1/kernel``."""


@dataclass(frozen=True)
class FlaxTeacher:
    """A converted checkpoint.

    Attributes:
        state: tensors under the names of the PyTorch port.
        arguments: what the shapes say of the network's arguments; image size and attention do not show in them.
    """

    state: dict[str, Tensor]
    arguments: dict[str, int | tuple[int, ...]]


def _decode(code: int, payload: bytes) -> np.ndarray:
    """Return the array of a msgpack extension: shape, dtype and row-major bytes, themselves msgpack."""
    if code not in (ARRAY, SCALAR):
        raise ValueError(f"extension type {code}")
    content = msgpack.unpackb(payload, raw=False, max_array_len=64, max_map_len=0, max_ext_len=0)
    if not isinstance(content, list) or len(content) != 3:
        raise ValueError("an array without shape, dtype and bytes")
    shape, name, raw = content
    name = name.decode() if isinstance(name, bytes) else name
    if name not in DTYPES:
        raise ValueError(f"an array of dtype {name!r}")
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or not isinstance(raw, bytes) or len(raw) != math.prod(shape) * np.dtype(name).itemsize:
        raise ValueError(f"an array of shape {shape} and dtype {name} that has other bytes")
    return np.frombuffer(raw, dtype=np.dtype(name).newbyteorder("<")).reshape(shape)


def read_ema_params(path: Path) -> Leaves:
    """Return the averaged weights of a checkpoint; optimiser state is passed over, never held.

    Raises:
        DamagedFileError: the file is cut off, not a checkpoint, or has anything but maps and arrays.
    """
    leaves: Leaves = {}
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            reader = msgpack.Unpacker(
                file, raw=False, ext_hook=_decode, max_buffer_size=max(1, size), max_array_len=64, max_map_len=ENTRIES
            )
            for _ in range(reader.read_map_header()):
                if reader.unpack() == "ema_params":
                    leaves = dict(_leaves(reader.unpack(), ""))
                else:
                    reader.skip()
            left = size - reader.tell()
    except Exception as error:  # a hostile file may fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedFileError(f"{path} is not a flax checkpoint: {reason}; fetch it again") from error
    if left:
        raise DamagedFileError(f"{path} has {left} bytes after its end; fetch it again")
    if not leaves:
        raise DamagedFileError(f"{path} has no 'ema_params'; a checkpoint with averaged weights is needed")
    return leaves


def _leaves(node: object, path: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(node, np.ndarray):
        yield path, node
    elif isinstance(node, dict) and path.count("/") < 8:
        for name, child in node.items():
            yield from _leaves(child, f"{path}/{name}" if path else str(name))
    else:
        raise ValueError(f"{path or 'ema_params'} is neither a map nor an array")


def read_flax(path: Path) -> FlaxTeacher:
    """Read a checkpoint and convert it to the names and layouts of the PyTorch port.

    Raises:
        DamagedFileError: the file is no such checkpoint; names that have no place in the network are listed.
    """
    leaves = read_ema_params(path)
    try:
        return _convert(leaves)
    except (KeyError, ValueError, IndexError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedFileError(f"{path} is not a teacher of progressive distillation: {reason}") from error


def _convert(leaves: Leaves) -> FlaxTeacher:
    levels = 1 + max((int(found[1]) for key in leaves if (found := re.match(r"down_(\d+)\.block_", key))), default=-1)
    if levels > len(leaves):
        raise ValueError(f"{levels} levels in {len(leaves)} arrays")
    blocks = len({found[0] for key in leaves if (found := re.match(r"down_0\.block_\d+/", key))})
    places = {"dense0": "time.0", "dense1": "time.2", "class_emb": "class_emb", "conv_in": "down.0"}
    places |= {"norm_out": "out.0", "conv_out": "out.2"}
    places |= {"mid.block_1": "mid.0.resblocks", "mid.attn_1": "mid.0.attention", "mid.block_2": "mid.1.resblocks"}
    for level in range(levels):
        down, up = 1 + level * (blocks + 1), (levels - 1 - level) * (blocks + 2)
        for block in range(blocks + 1):
            places[f"up_{level}.block_{block}"] = f"up.{up + block}.resblocks"
            places[f"up_{level}.attn_{block}"] = f"up.{up + block}.attention"
            if block < blocks:
                places[f"down_{level}.block_{block}"] = f"down.{down + block}.resblocks"
                places[f"down_{level}.attn_{block}"] = f"down.{down + block}.attention"
        places[f"down_{level}.downsample"] = f"down.{down + blocks}"
        places[f"up_{level}.upsample"] = f"up.{up + blocks + 1}"

    arguments = _arguments(leaves, levels, blocks)
    state: dict[str, Tensor] = {}
    for layer in dict.fromkeys(key.partition("/")[0] for key in leaves):
        if layer not in places:
            raise ValueError(f"unknown layer {layer!r}")
        parts = {key: leaves.pop(key) for key in list(leaves) if key.partition("/")[0] == layer}
        for name, array in _layer(layer, {key.partition("/")[2]: value for key, value in parts.items()}):
            state[f"{places[layer]}{name}"] = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    return FlaxTeacher(state, arguments)


def _arguments(leaves: Leaves, levels: int, blocks: int) -> dict[str, int | tuple[int, ...]]:
    """Return what shapes tell of the network."""
    channels, width = leaves["conv_in/kernel"].shape[2:]
    outputs = leaves["conv_out/kernel"].shape[3]
    widths = [leaves[f"down_{level}.block_0/conv1/kernel"].shape[3] for level in range(levels)]
    if any(wide % width for wide in widths):
        raise ValueError(f"levels of {widths} channels over {width}")
    heads = {array.shape[1:] for key, array in leaves.items() if re.search(r"attn_\d+/q/kernel$", key)}
    if any(len(shape) != 2 for shape in heads):
        raise ValueError("attention without heads")
    single = all(shape[0] == 1 for shape in heads)
    if not single and len({shape[1] for shape in heads}) != 1:
        raise ValueError(f"attention heads of shapes {sorted(heads)}")
    return {
        "channels": channels,
        "width": width,
        "embedding": leaves["dense0/kernel"].shape[1],
        "multipliers": tuple(wide // width for wide in widths),
        "blocks": blocks,
        "head_width": 0 if single else next(iter(heads))[1],
        "classes": leaves["class_emb/kernel"].shape[0] if "class_emb/kernel" in leaves else 0,
        "outputs": 0 if outputs == channels else outputs,
    }


INNER = {
    "norm1": "norm1", "conv1": "conv1", "temb_proj": "time.1", "norm2": "norm2", "conv2": "conv2",
    "nin_shortcut": "skip", "norm": "norm", "proj_out": "out",
}  # fmt: skip
"""Layers inside a residual or attention block: flax's names and the port's."""


def _layer(layer: str, parts: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a layer's arrays under the port's names, the place of the layer left out."""
    if "q/kernel" in parts:
        for leaf in ("kernel", "bias"):
            # [C, heads, width] or [heads, width] for each of q, k and v: an output channel is (head, part, width)
            joined = np.stack([parts[f"{part}/{leaf}"] for part in "qkv"], axis=-2)
            if leaf == "kernel":
                yield ".qkv.weight", joined.reshape(joined.shape[0], -1).T[:, :, None, None]
            else:
                yield ".qkv.bias", joined.reshape(-1)
    for path, array in parts.items():
        inner, _, leaf = path.rpartition("/")
        if inner in ("q", "k", "v"):
            continue
        if inner and inner not in INNER:
            raise ValueError(f"unknown layer {layer}/{inner}")
        place = f".{INNER[inner]}" if inner else ""
        if leaf in ("scale", "bias"):
            yield f"{place}.{'weight' if leaf == 'scale' else 'bias'}", array.reshape(-1)
        elif leaf == "kernel":
            yield f"{place}.weight", _weight(inner, array)
        else:
            raise ValueError(f"unknown array {layer}/{path}")


def _weight(inner: str, kernel: np.ndarray) -> np.ndarray:
    """Return a kernel in torch's layout: outputs first."""
    if inner == "proj_out":  # [heads, width, C]
        return kernel.reshape(-1, kernel.shape[-1]).T[:, :, None, None]
    if inner == "nin_shortcut":
        return kernel.reshape(-1, kernel.shape[-1]).T[:, :, None, None]
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if kernel.ndim != 2:
        raise ValueError(f"a kernel of {kernel.ndim} axes")
    return kernel.T
