"""Checkpoints in other projects' formats: what they hold, under the names of our networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.io.archives import is_web_page
from tractbench.io.files import write_atomic
from tractbench.io.pickles import shown
from tractbench.io.tensors import save_plain
from tractbench.nets.build import Argument
from tractbench.teachers.readers.edm_pickle import Node, named_tensors, read_edm_pickle
from tractbench.teachers.readers.flax_msgpack import read_flax
from tractbench.teachers.readers.state_dicts import is_safetensors, is_torch, read_safetensors, read_torch

OLD_PICKLES = (b"(dp", b"}q\x00", b"(d")
"""How pickles of protocols 0 and 1 begin that are a dict, as snapshots are."""

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
        taken: which of several weights in the file these are, for people; None if there are no others.
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
    taken: str | None = None


def read_foreign(path: Path, key: str | None = None) -> Foreign:
    """Read a checkpoint, recognised by its contents, without executing anything in it.

    Args:
        path: the file.
        key: which of several weights in a PyTorch or safetensors file.

    Raises:
        ConfigError: it holds several weights and nothing says which.
        DamagedFileError: it is none that is known, or is cut off or hostile.
    """
    if path.is_dir():
        raise DamagedFileError(f"{path} is a folder; give a checkpoint's file{_diffusers(path)}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise DamagedFileError(f"cannot read {path} ({error.strerror}); give the path of a checkpoint") from error
    if is_torch(head):
        weights = read_torch(path, key)
        return Foreign("state_dict", weights.state, taken=weights.taken)
    if is_safetensors(head, size):
        weights = read_safetensors(path, key)
        return Foreign("safetensors", weights.state, taken=weights.taken)
    if key is not None:
        raise ConfigError(f"--key {key}: {path} is no PyTorch or safetensors file; leave it out")
    if head[:1] == b"\x80" or head.startswith(OLD_PICKLES):
        return _edm(read_edm_pickle(path), path)
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        teacher = read_flax(path)
        both = teacher.arguments["outputs"] != 0
        arguments: dict[str, Argument] = dict(teacher.arguments)
        return Foreign("flax", teacher.state, "google_unet", arguments, parameterisation="both" if both else "x0")
    what = "a web page" if is_web_page(path) else "no checkpoint of a known format"
    raise DamagedFileError(
        f"{path} is {what}; give an EDM pickle, a flax checkpoint, a PyTorch state dict or safetensors"
    )


def _diffusers(folder: Path) -> str:
    """Say of a folder that diffusers wrote that its networks are others."""
    if not any((folder / place).is_file() for place in ("model_index.json", "config.json", "unet/config.json")):
        return ""
    return " (diffusers' networks have no architecture in common with those that are known here)"


PARAMETERISATION = {"EDMPrecond": "edm", "VPPrecond": "vp_linear", "VEPrecond": "ve_song", "iDDPMPrecond": "iddpm"}

SETTINGS: Mapping[str, Mapping[str, tuple[str, float]]] = {
    "edm": {"sigma_data": ("sigma_data", 0.5), "sigma_min": ("sigma_min", 0.0), "sigma_max": ("sigma_max", math.inf)},
    "vp_linear": {"beta_d": ("beta_d", 19.9), "beta_min": ("beta_min", 0.1), "M": ("steps", 1000),
                  "epsilon_t": ("epsilon_t", 1e-5)},
    "ve_song": {"sigma_min": ("sigma_min", 0.02), "sigma_max": ("sigma_max", 100.0)},
    "iddpm": {},
}  # fmt: skip
"""Arguments of EDM's wrappers: ours of the same meaning and the default."""

IGNORED = frozenset({
    "use_fp16", "dropout", "label_dropout", "augment_dim", "C_1", "C_2", "M",
})  # fmt: skip
"""Arguments of EDM's classes that do not change what a teacher computes here; ``M`` where it is no setting."""


def _edm(root: Node, path: Path) -> Foreign:
    parameterisation = PARAMETERISATION[root.class_name]
    recipe, settings = _recipe(root, parameterisation, path)
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
    network, arguments = _architecture(recipe, parameterisation, path)
    blocks, levels = arguments["blocks"], arguments["multipliers"]
    assert isinstance(blocks, int)
    assert isinstance(levels, tuple)
    if blocks * len(levels) > len(state):  # else a false number would build a network without end
        raise DamagedFileError(f"{path} says {len(levels)} levels of {blocks} blocks, and has {len(state)} tensors")
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
            raise DamagedFileError(f"{path}: {key} is {shown(value)}, not a number")
        if value != default:
            settings[ours] = value
    return recipe, settings


def _architecture(recipe: dict[str, Any], parameterisation: str, path: Path) -> tuple[str, dict[str, Argument]]:
    """Return our network and its arguments, those at their defaults left out, for a wrapper's constructor arguments."""
    model = recipe.pop("model_type", "DhariwalUNet")
    if model not in ("SongUNet", "DhariwalUNet"):
        raise DamagedFileError(f"{path} holds a network {shown(model)}; SongUNet and DhariwalUNet are known")
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
            raise DamagedFileError(
                f"{path} holds a SongUNet inside iDDPMPrecond, which is not known here; give one with a DhariwalUNet"
            )
        arguments["outputs"] = 2 * channels
    return ("song_unet" if song else "dhariwal_unet"), arguments


def _song(told: Mapping[str, Any], path: Path) -> dict[str, Argument]:
    choices = {"embedding_type": ("positional", "fourier"), "encoder_type": ("standard", "residual"),
               "decoder_type": ("standard",)}  # fmt: skip
    for key, known in choices.items():
        if told[key] not in known:
            raise DamagedFileError(f"{path} was made with {key} {shown(told[key])}; known: {', '.join(known)}")
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
        raise DamagedFileError(f"{source} does not fit its network: {found}; give the file of another network, or "
                               "save all of it")  # fmt: skip
    infinite = [name for name in wanted if not bool(torch.isfinite(state[name]).all())]
    if infinite:
        raise DamagedFileError(
            f"{source} has values that are not finite in {len(infinite)} tensors: {_some(infinite)}; fetch it "
            "again, or take a checkpoint from before the training diverged"
        )
    return {name: state[name] for name in wanted}


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def write_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as float32, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    plain: dict[str, Tensor] = {}
    held: set[int] = set()
    for name, tensor in state.items():
        values = tensor.float().contiguous()
        place = values.untyped_storage().data_ptr()
        plain[name] = values.clone() if place in held else values  # tied ones: the format has no sharing
        held.add(place)

    write_atomic(path, lambda temporary: save_plain(temporary, plain))
