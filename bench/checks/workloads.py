"""What a workload promises: every tier is a run that can be resolved, every network one that can be built."""

from __future__ import annotations

from collections.abc import Iterator

from tractbench.checks.case import some_method
from tractbench.checks.finding import Check, Finding, examine, inapplicable
from tractbench.config.resolve import resolve
from tractbench.datasets.additions import load_addition
from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.nets.build import meta_network
from tractbench.plugins import find
from tractbench.registry import load_dataset


def check_workload(name: str) -> Iterator[Finding]:
    """Yield what the contract test finds of a file that adds to a data set: of that data set with all additions.

    Raises:
        ConfigError: it cannot be read, or does not go together with the data set's own.
    """
    addition, _ = load_addition(name)
    yield from examine("workload", find("workloads", name).name, load_dataset(addition.dataset), CHECKS)


def check_presets(dataset: Dataset) -> str:
    """Check that each tier can be resolved for each process."""
    count = 0
    for process in dataset.workload.processes:
        for tier in dataset.workload.tiers:
            method, given = some_method(process), {"dataset": dataset.name, "process": process, "tier": tier}
            if process not in dataset.workload.teachers:
                given["teacher"] = dataset.trained_teacher(process)
            try:
                resolve(given | {"method": method.name})
                trained = some_method(process, trains=True)
                resolve(given | {"method": trained.name})
            except ConfigError as error:
                raise ConfigError(f"tier '{tier}' with process '{process}': {error}") from error
            count += 1
    return f"{count} combinations of tier and process"


def check_networks(dataset: Dataset) -> str:
    """Check that each network can be built for each of its processes."""
    count = 0
    for name, tables in dataset.workload.networks.items():
        for process in tables:
            preset = dataset.network(name, process)
            meta_network(preset.network, preset.arguments)
            count += 1
    if not count:
        inapplicable("it names no networks")
    return f"{count} networks can be built"


CHECKS = (Check("presets", check_presets), Check("networks", check_networks))
