"""What is offered: a component of a kind, by whom, not yet imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint
from typing import Literal, TypeVar, cast

from tractbench.errors import ConfigError

Kind = Literal["methods", "datasets", "extractors", "networks", "processes", "workloads"]

WORDS: Mapping[Kind, str] = {
    "methods": "method",
    "datasets": "data set",
    "extractors": "feature extractor",
    "networks": "network",
    "processes": "process",
    "workloads": "workload",
}
"""What one of each kind is called; the entry-point group of a kind is ``tractbench.KIND``."""

Function = TypeVar("Function", bound=Callable[..., object])

_forgetting: list[Callable[[], None]] = []


def remembered(function: Function) -> Function:
    """Keep what a function returns of components for its arguments, until :func:`forget`."""
    kept = lru_cache(maxsize=256)(function)
    _forgetting.append(kept.cache_clear)
    return cast("Function", kept)


def forget() -> None:
    """Forget what was found, as a new process would: distributions or files may have changed."""
    for one in _forgetting:
        one()


@dataclass(frozen=True)
class Component:
    """Something that a distribution or a file offers.

    Attributes:
        kind: what it is.
        name: as it is declared.
        value: where it lies, ``module:attribute`` or a file.
        origin: who offers it: a distribution with its version, or a file.
        source: the entry point, or what a file defines.
    """

    kind: Kind
    name: str
    value: str
    origin: str
    source: object

    def load(self) -> object:
        """Return the component itself.

        Raises:
            ConfigError: its module fails, in whatever way; the message names it, its origin and the reason.
        """
        if not isinstance(self.source, EntryPoint):
            return self.source
        try:
            return _loaded(self.source)
        except (Exception, SystemExit) as error:  # a plugin may fail in any way; the user has to know which
            raise ConfigError(
                f"{WORDS[self.kind]} {self.name} = {self.value} of {self.origin} cannot be imported "
                f"({reason(error)}); uninstall or mend it"
            ) from error


@remembered
def _loaded(entry: EntryPoint) -> object:
    return entry.load()


def normal(name: str) -> str:
    """Return a name as names are compared."""
    return name.strip().lower().replace("-", "_")


def reason(error: BaseException) -> str:
    """Return what an exception says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
