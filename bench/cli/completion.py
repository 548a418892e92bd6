"""What Tab completes after a flag: names of installed components and tables. Nothing of them is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from tractbench.plugins import Kind, names

Completion = Callable[[str], list[str]]


def completing(known: Callable[[], Iterable[str]]) -> Completion:
    """Return what completes the beginning of a name to those that are known when it is asked."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in known() if name.startswith(incomplete)]

    return complete


def component(kind: Kind) -> Completion:
    """Return what completes names of a kind of component, those of plugins that are installed too."""
    return completing(partial(names, kind))


def _tables() -> Iterable[str]:
    from tractbench.claims.loading import shipped_tables

    return sorted(path.stem for path in shipped_tables().glob("*.toml"))


table = completing(_tables)

method, dataset = component("methods"), component("datasets")

FLAGS: Mapping[str, Completion] = {
    "method": method,
    "dataset": dataset,
    "process": component("processes"),
}
"""By the name of the setting that a flag of :data:`tractbench.config.flags.FLAGS` gives."""
