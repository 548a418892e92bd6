"""What plugins add to data sets of others: networks, recipes, tiers and processes, from TOML files.

A file in the entry-point group ``tractbench.workloads`` says ``dataset = NAME`` and has tables as that data set's
workload has them: new names only, so that no plugin changes what a run of somebody else is.
"""

from __future__ import annotations

from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import Field

from tractbench.datasets.workload import DenoiserTable, Table, TeacherRecipe, TierTable, Workload, parsed, read_toml
from tractbench.errors import ConfigError
from tractbench.plugins import Component, components, find, remembered


class Addition(Table):
    """What one file adds.

    Attributes:
        dataset: name of the data set; without its argument, all its variants.
        processes: as in a workload; they come after its own.
        teachers: likewise.
        networks: likewise.
        recipes: likewise.
        tiers: likewise.
    """

    dataset: str
    processes: tuple[str, ...] = ()
    teachers: dict[str, str] = Field(default_factory=dict)
    networks: dict[str, dict[str, DenoiserTable]] = Field(default_factory=dict)
    recipes: dict[str, dict[str, TeacherRecipe]] = Field(default_factory=dict)
    tiers: dict[str, TierTable] = Field(default_factory=dict)

    def fits(self, dataset: str) -> bool:
        """Whether it is for a data set, by its whole name or that of its family."""
        return self.dataset in (dataset, dataset.partition(":")[0])


def load_addition(name: str) -> tuple[Addition, Path]:
    """Return what a plugin adds, by the name it is registered with, and its file.

    Raises:
        ConfigError: there is none of that name, several are, or it says something wrong.
    """
    return _read(find("workloads", name))


def _read(component: Component) -> tuple[Addition, Path]:
    value = component.load()
    if not isinstance(value, Path):
        kind = "a resource" if isinstance(value, Traversable) else repr(value)
        raise ConfigError(
            f"workload {component.name} = {component.value} of {component.origin} is {kind}, no path of a file; write "
            'Path(__file__).with_name("NAME.toml")'
        )
    return parsed(Addition, read_toml(value), value), value


def extend(workload: Workload, addition: Addition, path: Path) -> Workload:
    """Return a workload with an addition.

    Raises:
        ConfigError: it gives a name another meaning, or does not go together with the workload.
    """
    values: dict[str, object] = dict(workload)
    for table in ("networks", "recipes", "teachers", "tiers"):
        before, more = getattr(workload, table), getattr(addition, table)
        if taken := before.keys() & more.keys():
            one = min(taken)
            raise ConfigError(f"{path}: {table}.{one}: data set '{addition.dataset}' has it already; name it otherwise")
        values[table] = {**before, **more}
    values["processes"] = tuple(dict.fromkeys((*workload.processes, *addition.processes)))
    return parsed(Workload, values, path)


def extended(workload: Workload, dataset: str) -> tuple[Workload, tuple[str, ...]]:
    """Return a data set's workload with all that plugins add to it, and what is wrong with plugins that add nothing.

    A broken plugin stops no run of the others: whoever asks for what it would add is told.
    """
    offers = components("workloads")
    return _extended(_Held(workload), dataset, tuple(offers.items())) if offers else (workload, ())


class _Held:
    """A workload as a key: equal if it is the same object."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload

    def __hash__(self) -> int:
        return id(self.workload)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.workload is self.workload


@remembered
def _extended(
    held: _Held, dataset: str, offers: tuple[tuple[str, tuple[Component, ...]], ...]
) -> tuple[Workload, tuple[str, ...]]:
    workload, wrong = held.workload, []
    for name, _ in offers:
        try:
            addition, path = load_addition(name)
            workload = extend(workload, addition, path) if addition.fits(dataset) else workload
        except ConfigError as error:
            wrong.append(str(error))
    return workload, tuple(wrong)
