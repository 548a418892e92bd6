"""Which components there are, and which of them cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tractbench.datasets.additions import extend, load_addition
from tractbench.diffusion.processes import process_class
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.base import extractor_class
from tractbench.nets.build import network_class
from tractbench.plugins import Kind, components
from tractbench.registry import load_dataset, load_method


@dataclass(frozen=True)
class Offer:
    """A component's name, who offers it, and why it cannot be used, "" if it can."""

    name: str
    origin: str
    error: str


def _dataset(name: str) -> object:
    return load_dataset(name).workload


def _workload(name: str) -> object:
    addition, path = load_addition(name)
    return extend(load_dataset(addition.dataset).own_workload, addition, path)


LOADERS: Mapping[Kind, Callable[[str], object]] = {
    "methods": load_method,
    "datasets": _dataset,
    "extractors": extractor_class,
    "networks": network_class,
    "processes": process_class,
    "workloads": _workload,
}
"""How one of a kind is loaded, by its name."""


def offers(kind: Kind) -> Iterator[Offer]:
    """Yield every component of a kind, each name once, in the order of names; each is loaded."""
    for _, found in sorted(components(kind).items()):
        name, origin = found[0].name, ", ".join(one.origin for one in found)
        try:
            LOADERS[kind](name)
        except ConfigError as error:
            yield Offer(name, origin, str(error))
        except Exception as error:  # a plugin's constructor may fail in any way
            yield Offer(name, origin, " ".join(f"{type(error).__name__}: {error}".split()))
        else:
            yield Offer(name, origin, "")
