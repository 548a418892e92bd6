"""Checks a component by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tractbench.checks.datasets import check_dataset
from tractbench.checks.extractors import check_extractor
from tractbench.checks.finding import Finding
from tractbench.checks.methods import check_method
from tractbench.checks.networks import check_network
from tractbench.checks.processes import check_process
from tractbench.checks.workloads import check_workload
from tractbench.errors import ConfigError, nearest_name
from tractbench.plugins import WORDS, Kind, components, file_components, names, normal

CHECKS: Mapping[Kind, Callable[[str], Iterator[Finding]]] = {
    "methods": check_method,
    "datasets": check_dataset,
    "extractors": check_extractor,
    "networks": check_network,
    "processes": check_process,
    "workloads": check_workload,
}
"""How a component of each kind is checked, by its name."""


def check(kind: Kind, name: str) -> Iterator[Finding]:
    """Yield what each check finds of a component; one that cannot be loaded is a finding too.

    Args:
        kind: what it is.
        name: its name; of a data set also ``NAME:ARGUMENT``.
    """
    try:
        yield from CHECKS[kind](name)
    except ConfigError as error:
        yield Finding(WORDS[kind], name, "load", "failed", str(error), "do what the message says")
    except Exception as error:  # a constructor may fail in any way
        said = " ".join(f"it raises {type(error).__name__}: {error}".split())
        yield Finding(WORDS[kind], name, "load", "failed", said, "mend it, so that it can be made from its name")


def kinds_of(name: str) -> tuple[Kind, ...]:
    """Return the kinds that have a component of a name.

    Raises:
        ConfigError: none has; the message has the nearest name.
    """
    found = tuple(kind for kind in WORDS if normal(_family(kind, name)) in components(kind))
    if not found:
        known = {one for kind in WORDS for one in names(kind)}
        raise ConfigError(f"no component {name!r}{nearest_name(name, known)}")
    return found


def _family(kind: Kind, name: str) -> str:
    return name.partition(":")[0] if kind == "datasets" else name


def check_file(file: Path) -> Iterator[tuple[Kind, str]]:
    """Yield kind and name of each component that a file defines.

    Raises:
        ConfigError: it cannot be used.
    """
    for component in file_components(file):
        yield component.kind, component.name
