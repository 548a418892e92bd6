"""A table's claims and what was found."""

from __future__ import annotations

import math
from dataclasses import replace

from tractbench.claims.claims import Claim
from tractbench.reports.chapters.captions import plan
from tractbench.reports.chapters.columns import cell_anchor, number, ruling
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.sheet import ABSENT, Column, Entry, Notes, Sheet, slug, with_interval
from tractbench.reports.verdicts.verdict import Verdict


def claims(subject: Subject) -> list[Sheet]:
    """Return the claims and what was found."""
    table, notes = subject.table, Notes()
    if not table.claims:
        return []
    verdicts = [subject.verdicts[f"{table.name}/{claim.id}"] for claim in table.claims]
    rows = [_claim(subject, claim, verdict, notes) for claim, verdict in zip(table.claims, verdicts, strict=True)]
    columns = (
        Column("Claim", False, wide=True),
        Column("Verdict", False),
        Column("Left over right", False),
        Column(f"Ratio of {subject.metric}, 95%"),
        *([Column("Published")] if subject.published else []),
        Column("n"),
        Column("p"),
    )
    caption = (
        "Ratio: geometric mean over n shared training seeds of left over right in the comparison that decides. "
        f"Paired t tests on its logarithm; p after Holm's correction over all claims of tier {table.tier}, against "
        f"the claim where it is contradicted. {plan(verdicts)}"
    )
    return [Sheet(slug(f"{table.name}-claims"), "Claims", caption.rstrip(), columns, tuple(rows), notes.texts)]


def _claim(subject: Subject, claim: Claim, verdict: Verdict, notes: Notes) -> tuple[Entry, ...]:
    margin = f"margin ±{claim.margin:g}, {claim.margin_reason}" if claim.margin else ""
    target = cell_anchor(verdict.id)
    p = verdict.p_against if verdict.verdict == "contradicted" else verdict.p
    left, right = (name.partition("/")[2] for name in (verdict.compared[0].left, verdict.compared[0].right))
    ratio = Entry(ABSENT, math.inf)
    if verdict.estimate is not None:
        ratio = Entry(with_interval(verdict.estimate, verdict.interval), verdict.estimate, target=target)
    return (
        Entry(claim.text, claim.text, marks=notes.mark(subject.table.sources[claim.source], claim.note, margin)),
        replace(ruling(verdict, target), marks=notes.mark("; ".join(verdict.notes), str(verdict.plan or ""))),
        Entry(f"{left} : {right}", left),
        ratio,
        *([Entry(*number(verdict.published, ".2f"))] if subject.published else []),
        Entry(str(verdict.n), verdict.n),
        Entry(*number(p, ".2g")),
    )
