"""Cards: small TOML files that say what a weights file is, how to build its network and what its sha256 must be."""

from __future__ import annotations

import hashlib
import json
import struct
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tractbench.errors import ConfigError, DamagedFileError, nearest_name
from tractbench.io.cache import cache_dir
from tractbench.io.files import file_sha256, write_atomic
from tractbench.nets.build import Argument, build_network
from tractbench.teachers.reported import Reported

SHIPPED = Path(__file__).parent / "cards" / "shipped"
"""Cards and weights that come with the package."""

PUBLISHED = Path(__file__).parent / "cards" / "published"
"""Cards of weights that others publish."""

SEALED = "# sha256 of the values above: "
"""Begins the last line of a card that this package wrote."""


class Card(BaseModel):
    """What every weights file says of itself.

    Attributes:
        name: what users call it.
        summary: one line.
        dataset: data set it was trained on.
        network: name of the network preset.
        arguments: its constructor's arguments.
        parameters: number of parameters.
        file: weights file beside the card.
        sha256: the file's hash.
        licence: of the weights.
        command: the command that made the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    dataset: str
    network: str
    arguments: dict[str, Argument]
    parameters: int
    file: str
    sha256: str
    licence: str
    command: str


class Origin(BaseModel):
    """Where weights came from that somebody else trained.

    Attributes:
        file: name of the file they were read from.
        sha256: its hash.
        format: what kind of file it was.
        published: name of the published teacher it was taken for, if any.
        fid: the FID its authors report, and where.
        taken: which of several weights in the file were taken.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    format: str
    published: str | None = None
    fid: float | None = None
    fid_source: str | None = None
    taken: str | None = None


class TeacherCard(Card):
    """A denoiser's card: ``process`` it was trained for and how its output becomes x0.

    Attributes:
        settings: of the preconditioning, where they differ from its defaults.
        origin: of weights that were imported.
        figures: what was measured of it; no part of its hash.
    """

    process: str
    parameterisation: str
    settings: dict[str, float] = {}
    origin: Origin | None = None
    figures: tuple[Reported, ...] = ()


class FeatureCard(Card):
    """A feature extractor's card: ``accuracy`` is the classifier's share of right answers on held-out images."""

    accuracy: float


AnyCard = TypeVar("AnyCard", bound=Card)


def read_card(name_or_path: str, kind: type[AnyCard]) -> tuple[AnyCard, Path]:
    """Read a card by its name, shipped or imported, or by its path if the name ends in ``.toml``.

    Returns:
        The card and the folder that its weights file lies in.

    Raises:
        ConfigError: there is no such card, or it is not a card of this kind.
        DamagedFileError: it is not as this package wrote it.
    """
    path = Path(name_or_path) if name_or_path.endswith(".toml") else _card_path(name_or_path)
    try:
        found = path.stat()
        return _parsed(path, kind, found.st_mtime_ns, found.st_size), path.parent
    except OSError as error:
        raise ConfigError(f"cannot read card {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        reason = str(error).splitlines()
        raise ConfigError(f"{path} is not a {kind.__name__}: {' '.join(reason[1:3]) or reason[0]}") from error


@lru_cache(maxsize=256)
def _parsed(path: Path, kind: type[AnyCard], *_stamp: int) -> AnyCard:
    """Read a card, once while its file stays as it is."""
    text = path.read_text(encoding="utf-8-sig")
    values = tomllib.loads(text)
    _, mark, sha256 = text.rpartition(SEALED)
    if mark and sha256.strip() != _values_sha256(values):
        raise DamagedFileError(
            f"{path} is not as it was written; make it again, or delete its last line if you changed it yourself"
        )
    return kind.model_validate(values)


def _values_sha256(values: Mapping[str, object]) -> str:
    """Return the hash of a card's values; line ends, blank lines and the order of keys are no part of it."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _card_path(name: str) -> Path:
    for folder in (SHIPPED, imported_folder()):
        if (path := folder / f"{name}.toml").is_file() and Path(name).name == name:
            return path
    if name.endswith("-smoke"):
        dataset, process, _ = name.rsplit("-", 2)
        raise ConfigError(
            f"teacher '{name}' is not on this machine; train it with 'tractbench teacher train --dataset "
            f"{dataset.replace('-', ':', 1)} "
            f"--process {process} --tier smoke'"
        )
    published = {path.stem for path in PUBLISHED.glob("*.toml")}
    if name in published:
        raise ConfigError(
            f"teacher '{name}' is not on this machine; fetch it with 'tractbench teacher download {name}', or read "
            f"a file that you have with 'tractbench teacher import FILE --card {name}'"
        )
    known = published | {path.stem for folder in (SHIPPED, imported_folder()) for path in folder.glob("*.toml")}
    raise ConfigError(f"unknown card {name!r}{nearest_name(name, known)}; or give the path of a .toml card")


def imported_folder() -> Path:
    """Return the folder of imported teachers."""
    return cache_dir() / "teachers"


def read_weights(card: Card, folder: Path) -> dict[str, Tensor]:
    """Return a card's tensors after checking their file's hash.

    Raises:
        DamagedFileError: the file is missing or is not what the card promises.
    """
    path = folder / card.file
    try:
        found = file_sha256(path)
        if found != card.sha256:
            raise DamagedFileError(
                f"{path} is damaged: sha256 {found[:12]}, card says {card.sha256[:12]}; {_remedy(card, folder)}"
            )
        return dict(_read_tensors(path))
    except OSError as error:
        raise DamagedFileError(f"cannot read {path} ({error.strerror}); {_remedy(card, folder)}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is not a file of float32 tensors ({error}); {_remedy(card, folder)}") from error


def _read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield a safetensors file's tensors one by one.

    The library's reader maps the file: its pages count beside the copies that other memory layouts need, and tensors
    lie at odd addresses, where the same product may round differently.
    """
    with safe_open(path, framework="pt") as checked:  # checks the header, which is then known to be sound
        names = list(checked.keys())
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        start = file.tell()
        for name in names:
            if header[name]["dtype"] != "F32":
                raise ValueError(f"{name} is {header[name]['dtype']}")
            first, end = header[name]["data_offsets"]
            file.seek(start + first)
            values = np.fromfile(file, dtype="<f4", count=(end - first) // 4)
            yield name, torch.from_numpy(values).clone().reshape(header[name]["shape"])


def _remedy(card: Card, folder: Path) -> str:
    return "reinstall tractbench" if folder == SHIPPED else f"make it again: {card.command}"


def load_network(card: Card, folder: Path, tensors: dict[str, Tensor] | None = None) -> nn.Module:
    """Build a card's network and load its weights, after checking their hash, names and shapes.

    Args:
        card: the card.
        folder: where its weights file lies.
        tensors: what :func:`read_weights` returned, if some of it is not the network's; without it, it is read here.

    Raises:
        DamagedFileError: the file is missing or is not what the card promises.
    """
    tensors = read_weights(card, folder) if tensors is None else tensors
    network = build_network(card.network, card.arguments)
    try:
        network.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DamagedFileError(
            f"{folder / card.file} does not fit network '{card.network}': {reason}; {_remedy(card, folder)}"
        ) from error
    return network.requires_grad_(False).eval()


def write_card(kind: type[AnyCard], folder: Path, trained: nn.Module, **fields: object) -> AnyCard:
    """Write a network's weights and its card into a folder; the weights' hash and size are filled in."""
    content = save({name: tensor.contiguous() for name, tensor in trained.state_dict().items()})
    card = kind.model_validate(
        {
            **fields,
            "file": f"{fields['name']}.safetensors",
            "sha256": hashlib.sha256(content).hexdigest(),
            "parameters": sum(p.numel() for p in trained.parameters()),
        }
    )
    write_atomic(folder / card.file, content)
    write_atomic(folder / f"{card.name}.toml", to_toml(card))
    return card


def to_toml(card: BaseModel) -> str:
    """Return a card as TOML text, without the fields that have their default, and with the text's hash."""
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in card.model_dump(exclude_defaults=True).items())
    return f"{text}{SEALED}{_values_sha256(tomllib.loads(text))}\n"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids it bare
