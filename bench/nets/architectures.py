"""Named architectures: each is written once, in ``architectures.toml``; cards, workloads and tests refer to it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tractbench.errors import ConfigError, nearest_name
from tractbench.nets.build import Argument

FILE = Path(__file__).with_suffix(".toml")


class Architecture(BaseModel):
    """A network's name and its constructor's arguments.

    Attributes:
        network: as it is registered in the entry-point group ``tractbench.networks``.
        arguments: by name; those of the images (channels, size, classes) may be left to the data set.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    arguments: dict[str, Argument]


@cache
def architectures() -> Mapping[str, Architecture]:
    """Return every named architecture."""
    found: dict[str, Architecture] = {}
    for name, written in tomllib.loads(FILE.read_text(encoding="utf-8")).items():
        if like := written.pop("like", None):
            written = {"network": found[like].network, **found[like].arguments, **written}
        found[name] = Architecture(network=written.pop("network"), arguments=written)
    return found


def architecture(name: str) -> Architecture:
    """Return an architecture by its name; a ConfigError names the nearest one."""
    if name not in architectures():
        raise ConfigError(f"unknown architecture {name!r}{nearest_name(name, architectures())}")
    return architectures()[name]
