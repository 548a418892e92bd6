"""A table with what the store holds for it: what a chapter is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.reports.findings import Findings, Found, Source, says
from tractbench.reports.sheet import METRIC_TITLES
from tractbench.reports.verdicts.repeats import Repeat
from tractbench.reports.verdicts.verdict import Verdict


@dataclass(frozen=True)
class Subject:
    """A table, and what was found for all of its cells and claims by the runs of one source.

    Attributes:
        table: the table.
        found: what was found, of both sources.
        source: whose runs it is about.
    """

    table: Table
    found: Found
    source: Source = "yours"

    @property
    def evidence(self) -> Mapping[str, Evidence]:
        """By cell id."""
        return self._findings.evidence

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """By cell or claim id."""
        return self._findings.verdicts

    @property
    def _findings(self) -> Findings:
        shipped = self.found.shipped
        return shipped if self.source == "shipped" and shipped else self.found.yours

    @cached_property
    def shipped(self) -> Subject | None:
        """The same table by the shipped runs; None if they have nothing to say of it."""
        theirs = self.found.shipped
        some = theirs is not None and any(theirs.evidence[cell.id].touched for cell in self.table.cells.values())
        return Subject(self.table, self.found, "shipped") if some else None

    @cached_property
    def repeats(self) -> Mapping[str, Repeat]:
        """Of the table's cells, whether the shipped result was reproduced by the user's runs."""
        own = {cell.id for cell in self.table.cells.values()}
        return {name: repeat for name, repeat in self.found.repeats.items() if name in own}

    def says(self, name: str) -> bool:
        """Whether the runs have something to say of a cell or claim."""
        return says(self._findings, name)

    def lines(self, name: str) -> tuple[Subject, ...]:
        """Return by whose runs a cell or claim has a line."""
        return tuple(Subject(self.table, self.found, source) for source, _ in self.found.sources(name))

    @property
    def metric(self) -> str:
        """How the table's metric is called."""
        return METRIC_TITLES.get(self.table.metric, self.table.metric)

    @property
    def published(self) -> bool:
        """Whether any of its figures is published."""
        return any(data.published for row in self.table.rows for data in row.cells)
