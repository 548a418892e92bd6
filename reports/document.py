"""Everything a report shows, gathered once for all formats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tractbench.claims.loading import find_table
from tractbench.claims.table import Table
from tractbench.errors import ConfigError, StoreError, nearest_name
from tractbench.reports.chapters.chapter import Chapter, chapter
from tractbench.reports.evidence import Evidence, gather
from tractbench.reports.lineage import CellLineage, cell_lineage
from tractbench.reports.overview import overview
from tractbench.reports.sheet import Sheet
from tractbench.reports.verdicts.judge import judge
from tractbench.reports.verdicts.registered import with_plans
from tractbench.reports.verdicts.verdict import Verdict
from tractbench.results.plans import registered_plans
from tractbench.results.record import Record
from tractbench.results.store import Store

RUNS_SHOWN = 12
"""Runs whose pictures and curves a page holds; more would make it too large to open."""


@dataclass(frozen=True)
class Selection:
    """What a report is about; None leaves it open.

    Attributes:
        table: name of a table; ``every`` asks for all of them.
        tier: evidence tier.
        dataset: name of a data set.
    """

    table: str | None = None
    every: bool = False
    tier: str | None = None
    dataset: str | None = None

    @property
    def names_tables(self) -> bool:
        """Whether it asks for tables, run or not, instead of what the runs touch."""
        return self.every or self.table is not None


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        root: the store's folder.
        records: the runs that it is about, oldest first.
        tables: the tables that it shows, by name.
        evidence: by cell id, of all tables.
        verdicts: by cell or claim id, of the tables shown.
        chapters: one for each table shown.
        sheets: the tables of all runs; none where tables are named.
    """

    root: Path
    records: tuple[Record, ...]
    tables: Mapping[str, Table]
    evidence: Mapping[str, Evidence]
    verdicts: Mapping[str, Verdict]
    chapters: tuple[Chapter, ...]
    sheets: tuple[Sheet, ...]

    @property
    def lineages(self) -> list[CellLineage]:
        """What stands behind each cell of the tables shown."""
        return [
            cell_lineage(table, cell, self.evidence[cell.id], self.verdicts.get(cell.id))
            for table in self.tables.values()
            for cell in table.cells.values()
        ]

    @property
    def every_sheet(self) -> list[Sheet]:
        """All sheets in their order."""
        return [part for c in self.chapters for part in c.order if isinstance(part, Sheet)] + list(self.sheets)

    @property
    def latest(self) -> tuple[Record, ...]:
        """The runs that are shown one by one, the latest first; none where tables are named."""
        return self.records[: -RUNS_SHOWN - 1 : -1] if self.sheets else ()

    @property
    def claims(self) -> list[Verdict]:
        """Verdicts on the claims of the tables shown."""
        return [verdict for verdict in self.verdicts.values() if verdict.kind == "claim"]

    @property
    def counts(self) -> list[tuple[str, str, Counter[str]]]:
        """Verdicts on figures and claims counted, for each tier and kind."""
        groups: dict[tuple[str, str], Counter[str]] = {}
        for verdict in self.verdicts.values():
            groups.setdefault((verdict.tier, verdict.kind), Counter())[verdict.verdict] += 1
        return [(tier, kind, counts) for (tier, kind), counts in groups.items()]

    @property
    def environments(self) -> list[tuple[dict[str, object], int]]:
        """Machines and versions of the runs with their numbers of runs."""
        texts = Counter(json.dumps(record.environment, sort_keys=True) for record in self.records)
        return [(json.loads(text), count) for text, count in texts.most_common()]

    @property
    def commands(self) -> list[str]:
        """Every command that made a run, once, oldest first."""
        return list(dict.fromkeys(record.command for record in self.records if record.command))


def compose(store: Store, tables: Mapping[str, Table], selection: Selection) -> Document:
    """Gather what a report shows.

    Args:
        store: the runs.
        tables: all tables, whichever are shown: claims are corrected for all of a tier.
        selection: what to show; without names of tables those that any run touches, and all runs.

    Raises:
        StoreError: there are no runs to report.
        ConfigError: an unknown name.
    """
    records = store.records()
    if not records and not selection.names_tables:
        raise StoreError(f"no runs in {store.root} yet; make some with 'tractbench run', or name another --runs folder")
    chosen = _chosen_tables(tables, selection)
    for name in ("tier", "dataset"):
        wanted = getattr(selection, name)
        known = {getattr(r.config, name) for r in records}
        if wanted is None or (selection.names_tables and chosen):
            continue
        if wanted not in known:
            raise StoreError(f"no runs of {name} '{wanted}' in {store.root}{nearest_name(wanted, known)}")
    evidence = gather(records, tables)
    if not selection.names_tables:
        chosen = {name: table for name, table in chosen.items() if _touched(table, evidence)}
    plans, damaged = registered_plans(store.root)
    store.damaged += damaged
    judged = with_plans(judge(tables, evidence), tables, evidence, records, plans)
    found = {verdict.id: verdict for verdict in judged if verdict.table in chosen}
    shown = [
        record
        for record in records
        if selection.tier in (None, record.config.tier) and selection.dataset in (None, record.config.dataset)
    ]
    if selection.names_tables:
        behind = {r.identity for t in chosen.values() for c in t.cells.values() for r in evidence[c.id].records}
        shown = [record for record in shown if record.identity in behind]
    return Document(
        root=store.root,
        records=tuple(shown),
        tables=chosen,
        evidence=evidence,
        verdicts=found,
        chapters=tuple(chapter(table, evidence, found, selection.names_tables) for table in chosen.values()),
        sheets=() if selection.names_tables else tuple(overview(shown, {r.identity for r in shown[-RUNS_SHOWN:]})),
    )


def _chosen_tables(tables: Mapping[str, Table], selection: Selection) -> dict[str, Table]:
    named = [find_table(tables, selection.table)] if selection.table else list(tables.values())
    chosen = {
        table.name: table
        for table in named
        if selection.tier in (None, table.tier) and selection.dataset in (None, table.dataset)
    }
    if selection.names_tables and not chosen:
        asked = " and ".join(f"{n} '{v}'" for n in ("tier", "dataset") if (v := getattr(selection, n)) is not None)
        known = "; ".join(f"{table.name} is {table.dataset}, tier {table.tier}" for table in named)
        raise ConfigError(f"no table of {asked}; {known}")
    return chosen


def _touched(table: Table, evidence: Mapping[str, Evidence]) -> bool:
    found: Sequence[Evidence] = [evidence[cell.id] for cell in table.cells.values()]
    return any(one.records or one.left_out or one.budgets for one in found)
