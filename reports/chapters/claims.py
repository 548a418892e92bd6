"""A table's claims and what was found."""

from __future__ import annotations

import math
from dataclasses import replace

from tractbench.claims.claims import Claim
from tractbench.reports.chapters.captions import looks_text, plan
from tractbench.reports.chapters.columns import cell_anchor, number, ruling, runs_column, runs_entry
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.sheet import ABSENT, Column, Entry, Notes, Sheet, slug, with_interval
from tractbench.reports.verdicts.verdict import Verdict


def claims(subject: Subject) -> list[Sheet]:
    """Return the claims and what was found."""
    table, notes = subject.table, Notes()
    if not table.claims:
        return []
    lines = [(claim, one) for claim in table.claims for one in subject.lines(f"{table.name}/{claim.id}")]
    verdicts = [one.verdicts[f"{table.name}/{claim.id}"] for claim, one in lines]
    rows = [_claim(one, claim, verdict, notes) for (claim, one), verdict in zip(lines, verdicts, strict=True)]
    columns = (
        Column("Claim", False, wide=True),
        *runs_column(subject),
        Column("Verdict", False),
        Column("Left over right", False),
        Column(f"Ratio of {subject.metric}, 95%"),
        *([Column("Published")] if subject.published else []),
        Column("n"),
        Column("p"),
        Column("Sign-flip p"),
        Column("P(left lower)"),
    )
    fewest = min((verdict.n for verdict in verdicts if verdict.n), default=0)
    flips = f"at least 1/{2**fewest:,} with {fewest} seeds; it and " if fewest else ""
    caption = (
        "Ratio: geometric mean over n shared training seeds of left over right in the comparison that decides. "
        f"Paired t tests on its logarithm; p after Holm's correction over all claims of tier {table.tier}, against "
        f"the claim where it is contradicted. Sign-flip p: exact, of the same comparison, not corrected; {flips}the "
        "probability that a run of the left scores lower than one of the right decide nothing. "
        f"{looks_text([table.looks_of(claim) for claim in table.claims])} {plan(verdicts)}"
    )
    return [Sheet(slug(f"{table.name}-claims"), "Claims", " ".join(caption.split()), columns, tuple(rows), notes.texts)]


def _claim(subject: Subject, claim: Claim, verdict: Verdict, notes: Notes) -> tuple[Entry, ...]:
    margin = f"margin ±{claim.margin:g}, {claim.margin_reason}" if claim.margin else ""
    target = cell_anchor(verdict.id, subject.source)
    against = verdict.verdict == "contradicted"
    p = verdict.p_against if against else verdict.p
    decides = verdict.compared[0]
    left, right = (name.partition("/")[2] for name in (decides.left, decides.right))
    refs = {name for pair in verdict.compared for name in (pair.left, pair.right)}
    records = [record for name in subject.evidence if name in refs for record in subject.evidence[name].records]
    ratio = Entry(ABSENT, math.inf)
    if verdict.estimate is not None:
        ratio = Entry(with_interval(verdict.estimate, verdict.interval), verdict.estimate, target=target)
    return (
        Entry(claim.text, claim.text, marks=notes.mark(subject.table.sources[claim.source], claim.note, margin)),
        *runs_entry(subject, verdict.id, records, notes),
        replace(
            ruling(verdict, target),
            marks=notes.mark("; ".join(verdict.notes), str(verdict.looks or ""), str(verdict.plan or "")),
        ),
        Entry(f"{left} : {right}", left),
        ratio,
        *([Entry(*number(verdict.published, ".2f"))] if subject.published else []),
        Entry(str(verdict.n), verdict.n),
        Entry(*number(p, ".2g")),
        Entry(*number(decides.sign_flip_against if against else decides.sign_flip, ".2g")),
        Entry(*number(decides.improvement, ".2f")),
    )
