"""Registering what a suite will make, and how it will be judged, before any of it is seen."""

from __future__ import annotations

from collections.abc import Sequence

from tractbench.claims.rules import claim_rule, figure_rule
from tractbench.claims.table import Table
from tractbench.errors import ConfigError
from tractbench.pipeline.suite_cells import Choice, Wanted, wanted_cells
from tractbench.results.plans import Plan, PlannedCell


def make_plans(choice: Choice, looks: Sequence[int] = ()) -> list[Plan]:
    """Return a plan for each table of a choice.

    Args:
        choice: the runs.
        looks: numbers of training seeds at which verdicts will be read; none for those that the table declares among
            its seeds. All of the seeds are always one.

    Raises:
        ConfigError: runs cannot be named here, or a look is not among the seeds.
    """
    if choice.tier:
        raise ConfigError(f"--tier {choice.tier}: verdicts rest on a table's own tier; leave it out to register a plan")
    wanted, unmet = wanted_cells(choice)
    if unmet:
        raise ConfigError(f"no plan: {unmet[0].ref} cannot be named on this machine: {unmet[0].reason}")
    return [_plan(table, choice.training_seeds(table), wanted, tuple(looks)) for table in choice.tables]


def _plan(table: Table, seeds: tuple[int, ...], wanted: Sequence[Wanted], looks: tuple[int, ...]) -> Plan:
    declared = {look for claim in (None, *table.claims) for look in table.looks_of(claim) if look <= len(seeds)}
    looks = tuple(sorted({*(looks or declared), len(seeds)}))
    if looks[0] < 1 or looks[-1] > len(seeds):
        raise ConfigError(f"looks {','.join(map(str, looks))}: give numbers of training seeds from 1 to {len(seeds)}")
    cells: dict[str, dict[int, str]] = {}
    for one in wanted:
        for ref in one.refs:
            name, _, cell = ref.partition("/")
            if name == table.name:
                cells.setdefault(cell, {})[one.cell.config.seed] = one.id
    return Plan(
        table=table.name,
        tier=table.tier,
        protocol=table.protocol,
        metric=table.metric,
        seeds=seeds,
        looks=looks,
        cells={
            ref: PlannedCell(runs=runs, rule=figure_rule(table.cells[ref], table.looks)) for ref, runs in cells.items()
        },
        claims={c.id: claim_rule(c, table.points(c.axis), table.looks_of(c)) for c in table.claims},
    )
