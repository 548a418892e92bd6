"""A method set up for a small run, which its checks look at."""

from __future__ import annotations

from dataclasses import dataclass

from tractbench.config.fields import RunConfig
from tractbench.config.resolve import resolve
from tractbench.datasets.base import Dataset
from tractbench.diffusion.processes import Process, load_process
from tractbench.errors import ConfigError
from tractbench.method import Method, Phase
from tractbench.registry import dataset_names, load_dataset, load_method, method_names

GRID = 16
"""Steps of the teacher."""

SMALL = {"batch": 32, "budget": 32 * 15, "samples": 20, "sampling_seeds": (0,), "chunk": 200}
"""Settings of a run of a second or two."""


@dataclass(frozen=True)
class Case:
    """A method with its default options on one process, as a run of :data:`GRID` teacher steps is resolved.

    Attributes:
        config: the run.
        method: the method.
        dataset: points of one Gaussian, where its process has them.
        process: the diffusion process on the run's grid.
    """

    config: RunConfig
    method: Method
    dataset: Dataset
    process: Process

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of the run, the last four at most: halving makes many, all alike."""
        return self.method.phases(self.config.schedule)[-4:]


def method_case(method: type[Method], process: str) -> Case:
    """Set a method up on one of its processes.

    Raises:
        ConfigError: no run can be set up.
    """
    given = {"method": method.name, "dataset": some_dataset(process), "process": process, "grid_steps": GRID, "nfe": 1}
    return resolved(given, trains=method.trains)


def resolved(given: dict[str, object], trains: bool) -> Case:
    """Resolve a small run.

    Raises:
        ConfigError: it is impossible.
    """
    tiers = load_dataset(str(given["dataset"])).workload.tiers
    small = {key: value for key, value in SMALL.items() if trains or key not in ("batch", "budget")}
    config, chosen, dataset = resolve(small | {"tier": "smoke" if "smoke" in tiers else None} | given)
    return Case(config, chosen, dataset, load_process(config.process, config.grid_steps))


def some_dataset(process: str) -> str:
    """Return a data set with a teacher for a process, one Gaussian first; only its name if it can be used at once.

    Raises:
        ConfigError: there is none.
    """
    for name in ("gaussian:3", *dataset_names()):
        try:
            dataset = load_dataset(name)
            if process in dataset.workload.teachers and dataset.files is None:
                return name
        except Exception:  # noqa: S112 - of a broken plugin, which is not what is looked at
            continue
    raise ConfigError(f"no data set has a teacher for process '{process}'; give one with a workload (docs/plugins.md)")


def some_method(process: str, trains: bool = False) -> type[Method]:
    """Return a method for a process: one that ``trains``, or one that trains nothing if there is any.

    Raises:
        ConfigError: there is none.
    """
    for name in ("ddim", "tract", "tract_edm", *method_names()):
        try:
            method = load_method(name)
        except ConfigError:  # of a broken plugin
            continue
        if process in method.processes and (method.trains or not trains):
            return method
    raise ConfigError(f"no method {'that trains ' * trains}is for process '{process}'; name it in the processes of one")
