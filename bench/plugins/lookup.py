"""Components by name, in distributions and files."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from tractbench.errors import ConfigError, nearest_name
from tractbench.plugins.files import file_components, used_files
from tractbench.plugins.offers import WORDS, Component, Kind, normal, reason, remembered

OWN = "tractbench"
NOT_REGISTERED = "not even tractbench's own are registered; install it again, in a checkout with 'pip install -e .'"
PACKAGES: Mapping[Kind, str] = {
    "methods": f"{OWN}.methods",
    "datasets": f"{OWN}.datasets",
    "extractors": f"{OWN}.evaluation.extractors",
    "networks": f"{OWN}.nets",
}
"""Where this package's own components are, a module each."""

Base = TypeVar("Base")


def components(kind: Kind) -> Mapping[str, tuple[Component, ...]]:
    """Return all that is offered of a kind, by its normal name, this package's first; nothing of it is imported.

    Of a name that several offer all are there, and none can be loaded.
    """
    return _found(tuple(sys.path), used_files()).offers[kind]


def complaints() -> tuple[str, ...]:
    """Return what is wrong with distributions and files of which not even the names can be read."""
    return _found(tuple(sys.path), used_files()).complaints


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names of a kind's components as they are declared, sorted."""
    return tuple(sorted(offers[0].name for offers in components(kind).values()))


def find(kind: Kind, name: str) -> Component:
    """Return the one component of a name.

    Raises:
        ConfigError: there is none, and the message has the nearest one, or several distributions offer it.
    """
    offers = components(kind).get(normal(name), ())
    if len(offers) > 1:
        origins = " and ".join(offer.origin for offer in offers)
        raise ConfigError(f"{WORDS[kind]} '{offers[0].name}' is offered by {origins}; uninstall or rename one of them")
    if not offers:
        if kind != "workloads" and not _installed(kind):
            raise ConfigError(f"unknown {WORDS[kind]} {name!r}: {NOT_REGISTERED}")
        if module := _forgotten(kind, name):
            raise ConfigError(
                f"unknown {WORDS[kind]} {name!r}: {module} is there, but not registered; give it a line in "
                "pyproject.toml if it has none, and install the checkout again with 'pip install -e .'"
            )
        raise ConfigError(f"unknown {WORDS[kind]} {name!r}{nearest_name(name, names(kind))}")
    return offers[0]


def _installed(kind: Kind) -> bool:
    """Whether this package's own components are registered; those of an old installation of a checkout are not."""
    return any(offer.origin.startswith(f"{OWN} ") for offers in components(kind).values() for offer in offers)


def _forgotten(kind: Kind, name: str) -> str:
    """Return the module of this package that is called like a component which is not registered, "" if none is.

    A checkout is installed before a component is added to it, and knows it only when it is installed again.
    """
    module = f"{PACKAGES[kind]}.{normal(name)}" if kind in PACKAGES and normal(name).isidentifier() else ""
    return module if module and find_spec(module) else ""


def load_class(kind: Kind, name: str, base: type[Base]) -> type[Base]:
    """Return the component of a name, a class.

    Raises:
        ConfigError: there is none of that name, it cannot be imported, or it is something else than it should be.
    """
    found = find(kind, name)
    loaded = found.load()
    where = f"{found.name} = {found.value} of {found.origin}"
    if not (inspect.isclass(loaded) and issubclass(loaded, base)):
        raise ConfigError(f"entry point {where} is not a {base.__name__}; name a class that is one")
    said = getattr(loaded, "name", None)
    if kind != "networks" and not (isinstance(said, str) and normal(said) == normal(name)):
        raise ConfigError(f"entry point {where} is not a {base.__name__} named '{found.name}'; write that name in both")
    if inspect.isabstract(loaded):
        missing = sorted(getattr(loaded, "__abstractmethods__", ()))
        raise ConfigError(f"{where} is not finished: define {', '.join(missing)}")
    return loaded


@dataclass(frozen=True)
class _Found:
    offers: Mapping[Kind, Mapping[str, tuple[Component, ...]]]
    complaints: tuple[str, ...]


@remembered
def _found(path: tuple[str, ...], files: tuple[Path, ...]) -> _Found:
    """Look through the distributions on a path and through files."""
    offers: dict[Kind, dict[str, tuple[Component, ...]]] = {kind: {} for kind in WORDS}
    wrong: list[str] = []
    found: list[Component] = []
    for dist in _distributions(path):
        try:
            found += _declared(dist)
        except Exception as error:  # one distribution's damaged metadata are nobody else's
            wrong.append(f"the entry points of {_title(dist)} cannot be read ({reason(error)}); install it again")
    for file in files:
        try:
            found += file_components(file)
        except ConfigError as error:
            wrong.append(str(error))
    if not any(component.origin.startswith(f"{OWN} ") for component in found):
        wrong.append(f"components: {NOT_REGISTERED}")
    for component in found:
        of_kind = offers[component.kind]
        of_kind[normal(component.name)] = (*of_kind.get(normal(component.name), ()), component)
    return _Found(offers, tuple(wrong))


def _distributions(path: tuple[str, ...]) -> list[Distribution]:
    """Return the distributions with components, this one first, each once: of two of one name Python sees the first.

    The others' metadata are not read: that would take longer than all the rest of a short command.
    """
    seen: dict[str, Distribution] = {}
    for dist in distributions(path=list(path)):
        if _declares(dist):
            seen.setdefault(normal(_title(dist).partition(" ")[0]).replace(".", "_"), dist)
    return sorted(seen.values(), key=lambda dist: not _title(dist).startswith(f"{OWN} "))


def _declares(dist: Distribution) -> bool:
    try:
        return f"[{OWN}." in (dist.read_text("entry_points.txt") or "")
    except Exception:  # it is named when it is read again
        return True


def _title(dist: Distribution) -> str:
    try:
        return f"{dist.metadata['Name']} {dist.version}"
    except Exception:  # no metadata, or unreadable ones
        return str(getattr(dist, "_path", "a distribution"))


def _declared(dist: Distribution) -> Iterator[Component]:
    for kind in WORDS:
        for found in dist.entry_points.select(group=f"tractbench.{kind}"):
            entry = EntryPoint(found.name, found.value, found.group)  # importlib_metadata has its own class
            yield Component(kind, entry.name, entry.value, _title(dist), entry)
