"""A table with what the store holds for it: what a chapter is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence
from tractbench.reports.sheet import METRIC_TITLES
from tractbench.reports.verdicts.verdict import Verdict


@dataclass(frozen=True)
class Subject:
    """A table, its evidence by cell id, and its verdicts by cell or claim id."""

    table: Table
    evidence: Mapping[str, Evidence]
    verdicts: Mapping[str, Verdict]

    @property
    def metric(self) -> str:
        """How the table's metric is called."""
        return METRIC_TITLES.get(self.table.metric, self.table.metric)

    @property
    def published(self) -> bool:
        """Whether any of its figures is published."""
        return any(data.published for row in self.table.rows for data in row.cells)
