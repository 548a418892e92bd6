"""Everything a report shows, gathered once for all formats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tractbench.claims.loading import find_table
from tractbench.claims.table import Table
from tractbench.errors import ConfigError, StoreError, nearest_name
from tractbench.reports.chapters.chapter import Chapter, chapter
from tractbench.reports.chapters.columns import SIGNS
from tractbench.reports.evidence import Evidence
from tractbench.reports.findings import Findings, Found, Source, find
from tractbench.reports.lineage import CellLineage, cell_lineage
from tractbench.reports.machines import machines
from tractbench.reports.overview import overview
from tractbench.reports.sheet import Sheet
from tractbench.reports.verdicts.verdict import DECIDABLE, Verdict
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
class Count:
    """How many verdicts there are of each kind, by whose runs they rest on, tier, and figures or claims."""

    source: Source
    tier: str
    kind: str
    rulings: Counter[str]


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        root: the store's folder.
        records: the user's runs that it is about, oldest first.
        shipped: the shipped runs that it is about, oldest first.
        tables: the tables that it shows, by name.
        found: what both say, of all tables.
        chapters: one for each table shown.
        sheets: the tables of all runs; none where tables are named.
    """

    root: Path
    records: tuple[Record, ...]
    shipped: tuple[Record, ...]
    tables: Mapping[str, Table]
    found: Found
    chapters: tuple[Chapter, ...]
    sheets: tuple[Sheet, ...]

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """What the user's runs say of the tables shown, by cell or claim id."""
        return self._shown(self.found.yours)

    def _shown(self, findings: Findings) -> dict[str, Verdict]:
        return {name: verdict for name, verdict in findings.verdicts.items() if verdict.table in self.tables}

    @property
    def lineages(self) -> list[CellLineage]:
        """What stands behind each cell of the tables shown, the user's runs and the shipped ones apart."""
        return [
            cell_lineage(table, cell, self.found, source)
            for table in self.tables.values()
            for cell in table.cells.values()
            for source, _ in self.found.sources(cell.id)
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
    def claims(self) -> list[tuple[Source, Verdict]]:
        """Verdicts on the claims of the tables shown, and whose runs they rest on."""
        claims = [name for name, verdict in self.verdicts.items() if verdict.kind == "claim"]
        return [(source, one.verdicts[name]) for name in claims for source, one in self.found.sources(name)]

    @property
    def rulings(self) -> list[tuple[str, str, str, Source]]:
        """Sign, ruling and text of each claim that was decided or could be, and whose runs it rests on."""
        decided = [(source, verdict) for source, verdict in self.claims if verdict.verdict in DECIDABLE]
        return [(SIGNS[verdict.verdict], verdict.verdict, verdict.text, source) for source, verdict in decided]

    @property
    def counts(self) -> list[Count]:
        """Verdicts on figures and claims counted, by whose runs they rest on, tier and kind; the user's alone first.

        Where all there is was shipped, that the user has run nothing is not counted.
        """
        kinds = {name: verdict.kind for name, verdict in self.verdicts.items()}
        groups: dict[tuple[Source, str, str], Counter[str]] = {}
        shipped = self.found.shipped
        both: tuple[tuple[Source, Findings | None], ...] = (("yours", self.found.yours), ("shipped", shipped))
        for source, one in both:
            if one is None or (source == "yours" and shipped and not self.records):
                continue
            for name, kind in kinds.items():
                verdict = one.verdicts[name]
                if source == "yours" or verdict.verdict != "not run":
                    groups.setdefault((source, verdict.tier, kind), Counter())[verdict.verdict] += 1
        return [Count(*key, counts) for key, counts in groups.items()]

    @property
    def answers(self) -> Counter[str]:
        """For how many cells of the tables shown the user's runs reproduce the shipped ones, by the answer."""
        ids = [cell.id for table in self.tables.values() for cell in table.cells.values()]
        return Counter(self.found.repeats[name].answer for name in ids if name in self.found.repeats)

    @property
    def shipped_on(self) -> str:
        """What the shipped runs were made on, in words."""
        return machines(self.shipped)

    @property
    def environments(self) -> list[tuple[Source, dict[str, object], int]]:
        """Machines and versions of the runs with their numbers of runs, the user's first."""
        found: list[tuple[Source, dict[str, object], int]] = []
        both: tuple[tuple[Source, tuple[Record, ...]], ...] = (("yours", self.records), ("shipped", self.shipped))
        for source, records in both:
            texts = Counter(json.dumps(record.environment, sort_keys=True) for record in records)
            found += [(source, json.loads(text), count) for text, count in texts.most_common()]
        return found

    @property
    def commands(self) -> list[str]:
        """Every command that made a run, once, oldest first."""
        return list(dict.fromkeys(record.command for record in self.records if record.command))


def compose(
    store: Store, tables: Mapping[str, Table], selection: Selection, shipped: Sequence[Record] = ()
) -> Document:
    """Gather what a report shows.

    Args:
        store: the runs.
        tables: all tables, whichever are shown: claims are corrected for all of a tier.
        selection: what to show; without names of tables those that any run touches, and all runs.
        shipped: runs that come with the package, which are shown apart.

    Raises:
        StoreError: there are no runs to report.
        ConfigError: an unknown name.
    """
    records = store.records()
    if not records and not shipped and not selection.names_tables:
        raise StoreError(f"no runs in {store.root} yet; make some with 'tractbench run', or name another --runs folder")
    chosen = _chosen_tables(tables, selection)
    for name in ("tier", "dataset"):
        wanted = getattr(selection, name)
        known = {getattr(r.config, name) for r in (*records, *shipped)}
        if wanted is None or (selection.names_tables and chosen):
            continue
        if wanted not in known:
            raise StoreError(f"no runs of {name} '{wanted}' in {store.root}{nearest_name(wanted, known)}")
    plans, damaged = registered_plans(store.root)
    store.damaged += damaged
    found = find(records, tables, plans, shipped)
    if not selection.names_tables:
        chosen = _in_order(chosen, found)
    mine, theirs = _shown(records, found.yours, chosen, selection), _shown(shipped, found.shipped, chosen, selection)
    return Document(
        root=store.root,
        records=mine,
        shipped=theirs,
        tables=chosen,
        found=found,
        chapters=tuple(chapter(table, found, selection.names_tables) for table in chosen.values()),
        sheets=() if selection.names_tables else (*_overview(mine), *_shipped_overview(theirs)),
    )


def _in_order(tables: Mapping[str, Table], found: Found) -> dict[str, Table]:
    """Return the tables that any run touches, those of the user's runs first."""
    mine = {name: table for name, table in tables.items() if _touched(table, found.yours.evidence)}
    shipped = found.shipped
    theirs = {name: table for name, table in tables.items() if shipped and _touched(table, shipped.evidence)}
    return mine | theirs


def _shown(
    records: Sequence[Record], findings: Findings | None, chosen: Mapping[str, Table], selection: Selection
) -> tuple[Record, ...]:
    """Return the runs that a report is about."""
    if findings is None:
        return ()
    shown = [
        record
        for record in records
        if selection.tier in (None, record.config.tier) and selection.dataset in (None, record.config.dataset)
    ]
    if selection.names_tables:
        behind = {
            r.identity for t in chosen.values() for c in t.cells.values() for r in findings.evidence[c.id].records
        }
        shown = [record for record in shown if record.identity in behind]
    return tuple(shown)


def _overview(records: Sequence[Record]) -> list[Sheet]:
    return overview(records, {record.identity for record in records[-RUNS_SHOWN:]})


def _shipped_overview(records: Sequence[Record]) -> list[Sheet]:
    """Return the tables of all shipped runs, which say so."""
    made = f"Shipped with tractbench, measured on: {machines(records)}."
    return [
        replace(sheet, id=f"{sheet.id}-shipped", title=f"{sheet.title}, shipped", caption=f"{made} {sheet.caption}")
        for sheet in overview(records)
    ]


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
    return any(evidence[cell.id].touched for cell in table.cells.values())
