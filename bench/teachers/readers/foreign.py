"""Checkpoints in other projects' formats: what they hold, under the names of our networks."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tractbench.errors import DamagedFileError
from tractbench.io.files import write_atomic
from tractbench.nets.build import Argument
from tractbench.teachers.readers.edm_pickle import Node, named_tensors, read_edm_pickle
from tractbench.teachers.readers.flax_msgpack import read_flax

LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""How files of torch's old format begin."""

SHOWN = 3
"""Names an error lists of each kind."""


@dataclass(frozen=True)
class Foreign:
    """What a checkpoint holds.

    Attributes:
        format: ``edm_pickle``, ``flax``, ``state_dict`` or ``safetensors``.
        state: tensors under the names of our network, which may share memory that must not be written.
        network: name of the network; None if the file does not say.
        arguments: the network's arguments as far as the file says; those left out have their defaults.
        complete: whether ``arguments`` is all there is to know.
        parameterisation: how its output becomes x0; None if the file does not say.
        settings: of the preconditioning, where they differ from its defaults.
        u: iDDPM's noise levels, ``[M + 1]``.
        dropped: names that only training needs.
    """

    format: str
    state: dict[str, Tensor]
    network: str | None = None
    arguments: dict[str, Argument] = field(default_factory=dict)
    complete: bool = False
    parameterisation: str | None = None
    settings: dict[str, float] = field(default_factory=dict)
    u: Tensor | None = None
    dropped: tuple[str, ...] = ()


def read_foreign(path: Path) -> Foreign:
    """Read a checkpoint, recognised by its contents, without executing anything in it.

    Raises:
        DamagedFileError: it is none that is known, or is cut off or hostile.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DamagedFileError(f"cannot read {path} ({error.strerror}); give the path of a checkpoint") from error
    if head.startswith((b"PK\x03\x04", LEGACY_TORCH)):
        return Foreign("state_dict", _state_dict(path))
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8:
        try:
            return Foreign("safetensors", load_file(path))
        except SafetensorError as error:
            raise DamagedFileError(f"{path} is a damaged safetensors file ({error}); fetch it again") from error
    if head[:1] == b"\x80":
        return _edm(read_edm_pickle(path), path)
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        teacher = read_flax(path)
        both = teacher.arguments["outputs"] != 0
        arguments: dict[str, Argument] = dict(teacher.arguments)
        return Foreign("flax", teacher.state, "google_unet", arguments, parameterisation="both" if both else "x0")
    raise DamagedFileError(
        f"{path} is no checkpoint of a known format; give an EDM pickle, a flax checkpoint, a PyTorch state dict or "
        "safetensors"
    )


def _state_dict(path: Path) -> dict[str, Tensor]:
    """Read a PyTorch state dict, bare or under ``state_dict`` or ``model``."""
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedFileError(f"{path} is not a PyTorch file of tensors only: {reason}") from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DamagedFileError(f"{path} is not a state dict: names of tensors are needed and nothing else")
    return {str(name): tensor.detach() for name, tensor in found.items()}


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


PARAMETERISATION = {"EDMPrecond": "edm", "VPPrecond": "vp_linear", "VEPrecond": "ve_song", "iDDPMPrecond": "iddpm"}

SETTINGS: Mapping[str, Mapping[str, tuple[str, float]]] = {
    "edm": {"sigma_data": ("sigma_data", 0.5)},
    "vp_linear": {"beta_d": ("beta_d", 19.9), "beta_min": ("beta_min", 0.1), "M": ("steps", 1000)},
    "ve_song": {"sigma_min": ("sigma_min", 0.02), "sigma_max": ("sigma_max", 100.0)},
    "iddpm": {},
}
"""Arguments of EDM's wrappers: ours of the same meaning and the default."""

IGNORED = frozenset({
    "use_fp16", "dropout", "label_dropout", "augment_dim", "sigma_min", "sigma_max", "epsilon_t", "C_1", "C_2", "M",
})  # fmt: skip
"""Arguments of EDM's classes that do not change what a teacher computes here; ``M`` where it is no setting."""


def _edm(root: Node, path: Path) -> Foreign:
    parameterisation = PARAMETERISATION[root.class_name]
    recipe, settings = _recipe(root, parameterisation, path)
    network, arguments = _architecture(recipe, parameterisation, path)
    state, u, dropped = {}, None, []
    for name, tensor in named_tensors(root, path):
        if name == "u" and parameterisation == "iddpm":
            u = tensor
        elif name == "model.map_augment.weight":
            dropped.append(name)
        elif name.startswith("model."):
            state[name.removeprefix("model.")] = tensor
        else:
            raise DamagedFileError(f"{path} has an unexpected tensor {name!r}")
    return Foreign("edm_pickle", state, network, arguments, True, parameterisation, settings, u, tuple(dropped))


def _recipe(root: Node, parameterisation: str, path: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the constructor's arguments, and of them the preconditioning's settings in our names."""
    recipe = root.state.get("_init_kwargs")
    if root.state.get("_init_args") or not isinstance(recipe, dict):
        raise DamagedFileError(f"{path} does not hold its constructor's arguments by name")
    recipe, settings = dict(recipe), {}
    for key, (ours, default) in SETTINGS[parameterisation].items():
        value = recipe.pop(key, default)
        if not isinstance(value, (int, float)):
            raise DamagedFileError(f"{path}: {key} is {value!r}, not a number")
        if value != default:
            settings[ours] = value
    return recipe, settings


def _architecture(recipe: dict[str, Any], parameterisation: str, path: Path) -> tuple[str, dict[str, Argument]]:
    """Return our network and its arguments, those at their defaults left out, for a wrapper's constructor arguments."""
    model = recipe.pop("model_type", "DhariwalUNet")
    if model not in ("SongUNet", "DhariwalUNet"):
        raise DamagedFileError(f"{path} holds a network {model!r}; SongUNet and DhariwalUNet are known")
    song = model == "SongUNet"
    defaults: dict[str, Any] = {
        "label_dim": 0, "model_channels": 128 if song else 192, "channel_mult": [1, 2, 2, 2] if song else [1, 2, 3, 4],
        "channel_mult_emb": 4, "num_blocks": 4 if song else 3, "attn_resolutions": [16] if song else [32, 16, 8],
    }  # fmt: skip
    if song:
        defaults |= {"embedding_type": "positional", "channel_mult_noise": 1, "encoder_type": "standard",
                     "decoder_type": "standard", "resample_filter": [1, 1]}  # fmt: skip
    unknown = sorted(map(str, set(recipe) - set(defaults) - IGNORED - {"img_resolution", "img_channels"}))
    if unknown:
        raise DamagedFileError(f"{path} was made with arguments that are not known here: {_some(unknown)}")
    told = defaults | {key: value for key, value in recipe.items() if key not in IGNORED}
    try:
        channels, width = int(told["img_channels"]), int(told["model_channels"])
        arguments: dict[str, Argument] = {
            "channels": channels,
            "size": int(told["img_resolution"]),
            "width": width,
            "embedding": width * int(told["channel_mult_emb"]),
            "multipliers": tuple(int(value) for value in told["channel_mult"]),
            "blocks": int(told["num_blocks"]),
            "attention": tuple(int(value) for value in told["attn_resolutions"]),
        }
        if song:
            arguments["noise_width"] = width * int(told["channel_mult_noise"])
            arguments |= _song(told, path)
        if told["label_dim"]:
            arguments["classes"] = int(told["label_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} was made with impossible arguments ({error})") from error
    if parameterisation == "iddpm":
        if song:
            raise DamagedFileError(f"{path} holds a SongUNet inside iDDPMPrecond, which is not known here")
        arguments["outputs"] = 2 * channels
    return ("song_unet" if song else "dhariwal_unet"), arguments


def _song(told: Mapping[str, Any], path: Path) -> dict[str, Argument]:
    choices = {"embedding_type": ("positional", "fourier"), "encoder_type": ("standard", "residual"),
               "decoder_type": ("standard",)}  # fmt: skip
    for key, known in choices.items():
        if told[key] not in known:
            raise DamagedFileError(f"{path} was made with {key} {told[key]!r}; known: {', '.join(known)}")
    arguments: dict[str, Argument] = {}
    if told["embedding_type"] == "fourier":
        arguments["fourier"] = True
    if told["encoder_type"] == "residual":
        arguments["auxiliary"] = True
    if (taps := tuple(int(value) for value in told["resample_filter"])) != (1, 1):
        arguments["taps"] = taps
    return arguments


def fit(state: Mapping[str, Tensor], network: nn.Module, source: str) -> dict[str, Tensor]:
    """Return a state's tensors as the network's: all of them, of its shapes, finite and in its order.

    Args:
        state: tensors by name.
        network: the network, on the meta device.
        source: the file, for messages.

    Raises:
        DamagedFileError: names are missing or unexpected, shapes differ or values are not finite; all are listed.
    """
    wanted = network.state_dict()
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    wrong = {
        "missing": [name for name in wanted if name not in state],
        "unexpected": [name for name in state if name not in wanted],
        "of another shape": shapes,
    }
    found = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in wrong.items() if names)
    if found:
        raise DamagedFileError(f"{source} does not fit its network: {found}")
    infinite = [name for name in wanted if not bool(torch.isfinite(state[name]).all())]
    if infinite:
        raise DamagedFileError(f"{source} has values that are not finite in {len(infinite)} tensors: {_some(infinite)}")
    return {name: state[name] for name in wanted}


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def write_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as float32, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    plain = {name: tensor.float().contiguous() for name, tensor in state.items()}
    write_atomic(path, lambda temporary: save_file(plain, temporary))
