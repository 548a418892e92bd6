"""What stands above and below a chapter's tables, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tractbench.claims.axes import Axis
from tractbench.claims.rows import Cell
from tractbench.evaluation.protocols import load_protocol
from tractbench.reports.chapters.subject import Subject
from tractbench.reports.overview import gloss
from tractbench.reports.verdicts.verdict import Verdict
from tractbench.results.repeatability import LIMIT
from tractbench.results.statistics import ALPHA, MAX_SEEDS, POWER


def intro(subject: Subject) -> str:
    """Say what a table is, how it was scored and, where no sheet does, how its figures are judged."""
    table = subject.table
    sentences = [f"Tier {table.tier}; protocol {table.protocol}: {load_protocol(table.protocol).description}"]
    sentences.append(gloss([table.metric]))
    if not subject.published:
        sentences.append("No figure of this table is published: it tests what the paper claims, on other data.")
    if all(cell.row.ablation for cell in table.cells.values()):
        sentences += rules(subject)
    return " ".join(filter(None, sentences))


def caption(subject: Subject, cells: list[Cell], axis: Axis | None) -> str:
    """Say what the numbers of a sheet of cells are, of the table itself or of an ablation."""
    lines = [(one, cell) for cell in cells for one in subject.lines(cell.id)]
    verdicts = [one.verdicts[cell.id] for one, cell in lines if cell.id in one.verdicts]
    if axis:
        sentences = [f"{subject.metric}{_nfe(subject, cells)}: mean ± standard deviation over n training seeds."]
        sentences.append(sentence(axis.note))
        return " ".join(filter(None, [*sentences, *_whose(subject), plan(verdicts)]))
    sentences = []
    found = [one.evidence[cell.id] for one, cell in lines]
    if not any(one.records for one in found):
        sentences.append(f"{subject.metric}.")
    else:
        samples = sorted({record.config.samples for one in found for record in one.records})
        sentences.append(
            f"Ours: mean ± standard deviation over n training seeds of {subject.metric} on "
            f"{' or '.join(f'{n:,}' for n in samples)} samples; apart, the standard deviation over sampling seeds."
        )
    sentences.append("Parameters in millions; budget in training images, K = 1,024 and M = 1,048,576.")
    return " ".join(filter(None, [*sentences, *rules(subject), *_whose(subject), plan(verdicts)]))


def _whose(subject: Subject) -> list[str]:
    """Say whose runs lines are of, and when a shipped result is reproduced; nothing where all are the user's."""
    if not subject.shipped:
        return []
    sentences = ["Runs: yours, or those that tractbench ships with; they are never counted together."]
    if subject.repeats:
        sentences.append(
            f"On your machine, yes: your runs have the shipped bits, or are shown to differ from the shipped ones by "
            f"less than {LIMIT:.2f} standard deviations of repeated runs, as two single ones may; no: by more."
        )
    return sentences


def _nfe(subject: Subject, cells: list[Cell]) -> str:
    """Say at which number of network evaluations all cells are, nothing if they differ."""
    (nfe, *others) = {cell.nfe for cell in cells}
    return "" if others else f" in {nfe} network evaluation{'s' * (nfe > 1)}"


def rules(subject: Subject) -> list[str]:
    """Say how published figures are judged."""
    table, sentences = subject.table, []
    if subject.published:
        if table.margin:
            sentences.append(
                f"Reproduced: the 90% interval of ours minus published lies within ±{table.margin}, "
                f"{table.margin.reason}; contradicted: the 95% interval lies outside."
            )
        if table.unstated_error:
            sentences.append(
                f"A figure printed without ± counts as ±{table.unstated_error:g}, {table.unstated_error_reason}."
            )
    return sentences


def looks_text(declared: Iterable[Sequence[int]]) -> str:
    """Say when verdicts with looks are decided, nothing without any."""
    found = dict.fromkeys(", ".join(map(str, looks)) for looks in declared if looks)
    if not found:
        return ""
    return f"Decided at {' or '.join(found)} training seeds only: errors keep to {ALPHA:.0%} at all looks together."


def plan(verdicts: Iterable[Verdict]) -> str:
    """Say what stands behind inconclusive verdicts, nothing if there are none."""
    open_still = [verdict for verdict in verdicts if verdict.verdict == "inconclusive"]
    sentences = []
    if any(verdict.looks for verdict in open_still):
        sentences.append("In brackets: training seeds that the next look takes; after the last there is none.")
    if not all(verdict.looks for verdict in open_still):
        sentences.append(
            "In brackets: so many more training seeds would complete the least number, or decide with a chance of "
            f"{POWER:.0%} if the truth is as estimated and their number was fixed beforehand; without a number, none "
            f"up to {MAX_SEEDS:,} would, or footnotes say what hinders."
        )
    return " ".join(sentences)


def sentence(text: str) -> str:
    """Return text as a sentence, nothing for nothing."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
