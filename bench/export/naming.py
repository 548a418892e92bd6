"""Which run is meant: a folder's name, digits of an identity, or a table's cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tractbench.claims.table import Table
from tractbench.errors import ConfigError
from tractbench.reports.explain import explain
from tractbench.reports.lineage import CellLineage
from tractbench.results.record import Record
from tractbench.results.store import Store


def find_run(name: str, store: Store, tables: Mapping[str, Table]) -> Path:
    """Return the folder of a run in a store.

    Args:
        name: its folder's name, at least eight digits of its identity, or a cell of a table, ``TABLE/ROW/NFE``, that
            one run is behind.
        store: where names are looked up.
        tables: by their names.

    Raises:
        ConfigError: nothing has that name, it is no run, or several runs have it.
    """
    found = explain(name, store.records(), tables, store.root)
    if isinstance(found, Record):
        return store.root / found.folder
    if not isinstance(found, CellLineage):
        raise ConfigError(f"{name} is a {found.kind}, not a run; give a cell TABLE/ROW/NFE, a run's folder or identity")
    runs = [run for origin in found.origins for run in origin.runs]
    if not runs:
        command = f"; make one: {found.repeat[0]}" if found.repeat else ""
        raise ConfigError(f"{name}: there is no run of it in {store.root}{command}")
    if len(runs) > 1:
        listed = ", ".join(f"{run.identity[:8]} (seed {run.seed})" for run in runs)
        raise ConfigError(f"{name} has {len(runs)} runs; give the identity of one: {listed}")
    return store.root / runs[0].folder
