"""What runs say of tables: the user's own, and those that ship, which are never counted together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tractbench.claims.table import Table
from tractbench.reports.evidence import Evidence, gather
from tractbench.reports.verdicts.judge import judge
from tractbench.reports.verdicts.registered import with_plans
from tractbench.reports.verdicts.repeats import Repeat, repeats
from tractbench.reports.verdicts.verdict import Verdict
from tractbench.results.plans import Registered
from tractbench.results.record import Record

Source = Literal["yours", "shipped"]
"""Whose runs: those in the user's results folder, or those that come with the package."""


@dataclass(frozen=True)
class Findings:
    """What one set of runs says.

    Attributes:
        records: the runs, oldest first.
        evidence: by cell id, of all tables.
        verdicts: by cell or claim id, of all tables.
    """

    records: Sequence[Record]
    evidence: Mapping[str, Evidence]
    verdicts: Mapping[str, Verdict]


@dataclass(frozen=True)
class Found:
    """What the user's runs and the shipped ones say, apart.

    Attributes:
        yours: of the results folder.
        shipped: of the package; None if there are none, or none are asked for.
        repeats: of the cells that both have, whether the shipped result was reproduced.
    """

    yours: Findings
    shipped: Findings | None = None
    repeats: Mapping[str, Repeat] = field(default_factory=dict)

    def sources(self, name: str) -> tuple[tuple[Source, Findings], ...]:
        """Return whose runs have something to say of a cell or claim, the user's first; the user's if nobody's do."""
        shipped = self.shipped
        theirs = shipped is not None and says(shipped, name)
        mine: tuple[tuple[Source, Findings], ...] = (("yours", self.yours),)
        if shipped is None or not theirs:
            return mine
        return (*(mine if says(self.yours, name) else ()), ("shipped", shipped))


def says(findings: Findings, name: str) -> bool:
    """Whether runs have something to say of a cell or claim: there are some, or there are reasons why none count."""
    if name in findings.evidence:
        return findings.evidence[name].touched
    return findings.verdicts[name].verdict != "not run"


def find(
    records: Sequence[Record],
    tables: Mapping[str, Table],
    plans: Sequence[Registered] = (),
    shipped: Sequence[Record] = (),
) -> Found:
    """Gather and judge the user's runs and the shipped ones, each set by itself.

    Args:
        records: one for each identity, oldest first (:meth:`tractbench.results.store.Store.records`).
        tables: all of them, since claims are corrected for all of a tier.
        plans: registered ones of the store, oldest first.
        shipped: :func:`tractbench.results.measured.shipped_records`.
    """
    yours = _findings(records, tables, plans)
    if not shipped:
        return Found(yours)
    theirs = _findings(shipped, tables, ())
    return Found(yours, theirs, repeats(tables, yours.evidence, theirs.evidence))


def _findings(records: Sequence[Record], tables: Mapping[str, Table], plans: Sequence[Registered]) -> Findings:
    evidence = gather(records, tables)
    judged = with_plans(judge(tables, evidence), tables, evidence, records, plans)
    return Findings(records, evidence, {verdict.id: verdict for verdict in judged})
