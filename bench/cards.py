"""Cards: small TOML files that say what a weights file is, how to build its network and what its sha256 must be."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from tractbench.errors import ConfigError, DamagedFileError, nearest_name
from tractbench.files import write_atomic
from tractbench.nets.build import build_network

SHIPPED = Path(__file__).parent / "shipped"


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
    arguments: dict[str, int]
    parameters: int
    file: str
    sha256: str
    licence: str
    command: str


class TeacherCard(Card):
    """A denoiser's card: ``process`` it was trained for and how its output becomes x0."""

    process: str
    parameterisation: str


class FeatureCard(Card):
    """A feature extractor's card: ``accuracy`` is the classifier's share of right answers on held-out images."""

    accuracy: float


AnyCard = TypeVar("AnyCard", bound=Card)


def read_card(name_or_path: str, kind: type[AnyCard]) -> tuple[AnyCard, Path]:
    """Read a card by its shipped name, or by its path if the name ends in ``.toml``.

    Returns:
        The card and the folder that its weights file lies in.

    Raises:
        ConfigError: there is no such card, or it is not a card of this kind.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
    else:
        path = SHIPPED / f"{name_or_path}.toml"
        known = sorted(p.stem for p in SHIPPED.glob("*.toml"))
        if name_or_path not in known:
            raise ConfigError(
                f"unknown card {name_or_path!r}{nearest_name(name_or_path, known)}; or give the path of a .toml card"
            )
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))), path.parent
    except OSError as error:
        raise ConfigError(f"cannot read card {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        reason = str(error).splitlines()
        raise ConfigError(f"{path} is not a {kind.__name__}: {' '.join(reason[1:3]) or reason[0]}") from error


def load_network(card: Card, folder: Path) -> nn.Module:
    """Build a card's network and load its weights, after checking their hash, names and shapes.

    Raises:
        DamagedFileError: the file is missing or is not what the card promises.
    """
    path = folder / card.file
    remedy = "reinstall tractbench" if folder == SHIPPED else f"make it again: {card.command}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedFileError(f"cannot read {path} ({error.strerror}); {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise DamagedFileError(f"{path} is damaged: sha256 {found[:12]}, card says {card.sha256[:12]}; {remedy}")
    network = build_network(card.network, card.arguments)
    try:
        network.load_state_dict(load(content))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DamagedFileError(f"{path} does not fit network '{card.network}': {reason}; {remedy}") from error
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


def to_toml(card: Card) -> str:
    """Return a card as TOML text."""
    lines = []
    for key, value in card.model_dump().items():
        if isinstance(value, dict):
            value_text = "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + " }"
        else:
            value_text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML forbids it bare
        lines.append(f"{key} = {value_text}\n")
    return "".join(lines)
