"""A table of the paper as a chapter of the report: its cells, ablations, figures, claims and samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tractbench.claims.axes import Axis
from tractbench.claims.claims import Claim
from tractbench.claims.published import Published
from tractbench.claims.rows import Cell
from tractbench.claims.table import Table
from tractbench.config.numbers import format_budget
from tractbench.evaluation.protocols import load_protocol
from tractbench.reports.evidence import Evidence
from tractbench.reports.figures import Chart, Mark, axis_text
from tractbench.reports.overview import gloss
from tractbench.reports.sheet import (
    ABSENT,
    METRIC_TITLES,
    Column,
    Entry,
    Notes,
    Sheet,
    decimals,
    slug,
    with_interval,
    with_spread,
)
from tractbench.reports.verdicts.verdict import Verdict
from tractbench.results.record import Record
from tractbench.results.statistics import MAX_SEEDS, POWER, difference

AXIS_TITLES = {
    "mu_s": "self-teacher momentum",
    "mu_i": "momentum of the inference average",
    "budget": "training images",
    "parameters": "parameters, millions",
}
"""How settings are called under an axis; others go by their own names."""

SCALES = {"budget": "log", "nfe": "log", "parameters": "linear"}

SIGNS = {"reproduced": "✓", "contradicted": "✗", "inconclusive": "?", "not run": "○", "budget differs": "≠"}
"""Beside the word, so that no verdict is told by colour alone."""


@dataclass(frozen=True)
class Sample:
    """Samples of one cell, drawn from the same noises as the others of its row."""

    title: str
    record: Record


@dataclass(frozen=True)
class Chapter:
    """What a report shows of a table; ``order`` are its sheets and charts as they follow each other."""

    id: str
    title: str
    intro: str
    order: tuple[Sheet | Chart, ...]
    samples: Mapping[int, Sequence[Sample]] = field(default_factory=dict)


def chapter(
    table: Table, evidence: Mapping[str, Evidence], verdicts: Mapping[str, Verdict], complete: bool = True
) -> Chapter:
    """Lay out a table.

    Args:
        table: the table.
        evidence: by cell id.
        verdicts: by cell or claim id.
        complete: show ablations of which there is nothing to compare yet, too.
    """
    writer = _Writer(table, evidence, verdicts)
    order: list[Sheet | Chart] = [*writer.main(), *writer.claims(), *writer.against_nfe()]
    for axis in table.axes if complete else filter(writer.comparable, table.axes):
        order += [writer.axis_sheet(axis), *writer.axis_chart(axis)]
    order += writer.errors_by_phase()
    return Chapter(slug(f"table-{table.name}"), table.title, writer.intro(), tuple(order), writer.samples())


def cell_anchor(cell_id: str) -> str:
    """Return the anchor of what stands behind a cell or claim."""
    return slug(f"behind-{cell_id}")


def hours_title(records: Iterable[Record]) -> str:
    """Return the unit of training times: hours of what they were made on."""
    on_gpu = {record.environment.get("device", "cpu") != "cpu" for record in records}
    return "GPU-hours" if on_gpu == {True} else "CPU-hours" if on_gpu == {False} else "Hours"


class _Writer:
    def __init__(self, table: Table, evidence: Mapping[str, Evidence], verdicts: Mapping[str, Verdict]) -> None:
        self.table, self.evidence, self.verdicts = table, evidence, verdicts
        self.metric = METRIC_TITLES.get(table.metric, table.metric)
        self.published = any(cell.published for cell in table.cells.values())

    def intro(self) -> str:
        table = self.table
        sentences = [f"Tier {table.tier}; protocol {table.protocol}: {load_protocol(table.protocol).description}"]
        sentences.append(gloss([table.metric]))
        if not self.published:
            sentences.append("No figure of this table is published: it tests what the paper claims, on other data.")
        if all(cell.row.ablation for cell in table.cells.values()):
            sentences += self._rules()
        return " ".join(filter(None, sentences))

    def main(self) -> list[Sheet]:
        """Return the table itself, unless all of its rows are ablations."""
        cells = [cell for cell in self.table.cells.values() if not cell.row.ablation]
        return [self._sheet("cells", self.table.title, cells)] if cells else []

    def comparable(self, axis: Axis) -> bool:
        """Whether an ablation has two places with a figure, published or our own."""
        cells = [self.table.cells[point.cell] for point in axis.points]
        return sum(bool(cell.published or self.evidence[cell.id].quoted) for cell in cells) > 1

    def axis_sheet(self, axis: Axis) -> Sheet:
        cells = [self.table.cells[point.cell] for point in axis.points]
        return self._sheet(f"axis-{axis.id}", axis.title, cells, axis)

    def _sheet(self, part: str, title: str, cells: list[Cell], axis: Axis | None = None) -> Sheet:
        notes = Notes()
        best = self._best(cells)
        lines = axis is not None and len(axis.lines) > 1
        budget = axis is None or axis.x != "budget"  # else it stands in front
        hours = hours_title(record for cell in cells for record in self.evidence[cell.id].records)
        columns = (
            Column(AXIS_TITLES.get(axis.x, axis.x).capitalize() if axis else "Method", False),
            *([Column("NFE")] if axis is None else [Column("Series", False)] if lines else []),
            *([Column(f"{self.metric}, published")] if self.published else []),
            Column(f"{self.metric}, ours"),
            Column("Sampling std"),
            Column("n"),
            *([Column("Difference, 95%"), Column("Verdict", False)] if self.published else []),
            Column("Parameters, M"),
            *([Column("Budget")] if budget else []),
            Column(hours),
        )
        rows = []
        for index, cell in enumerate(cells):
            marks = notes.mark(cell.row.note)
            if axis is None:
                lead = [Entry(cell.row.label, cell.row.label, marks=marks), Entry(str(cell.nfe), cell.nfe)]
            else:
                point = axis.points[index]
                lead = [Entry(axis_text(axis.x, point.x), f"{index:04d}", marks=marks)]
                lead += [Entry(point.line, point.line)] if lines else []
            rows.append((*lead, *self._cell(cell, best, notes, budget)))
        anchor, caption = slug(f"{self.table.name}-{part}"), self._caption(cells, axis)
        several = len({cell.nfe for cell in cells}) > 1
        bold = "Best of each NFE in bold." if several else "Best in bold."
        return Sheet(anchor, title, caption, columns, tuple(rows), notes.texts, best=bold)

    def _best(self, cells: list[Cell]) -> set[tuple[str, bool]]:
        """Return ids of the cells whose score is the lowest of their NFE, our own (False) and published (True)."""
        found = set()
        for nfe in {cell.nfe for cell in cells}:
            scored = {c.id: self.evidence[c.id].mean for c in cells if c.nfe == nfe}
            ours = {cell_id: mean for cell_id, mean in scored.items() if mean is not None}
            theirs = {c.id: c.published.value for c in cells if c.nfe == nfe and c.published}
            for published, values in ((False, ours), (True, theirs)):
                if len(values) > 1:
                    found.add((min(values, key=values.__getitem__), published))
        return found

    def _cell(self, cell: Cell, best: set[tuple[str, bool]], notes: Notes, budget: bool) -> list[Entry]:
        """Return the entries that every sheet of cells has, with or without the budget."""
        evidence, verdict = self.evidence[cell.id], self.verdicts.get(cell.id)
        target = cell_anchor(cell.id)
        spread = evidence.spread
        entries = []
        if self.published:
            entries.append(self._published(cell, best, notes))
        if spread is None:
            marks = notes.mark(evidence.missing if evidence.budgets else "", *evidence.notes)
            text = evidence.missing if evidence.failed else "not run"
            entries += [Entry(text, math.inf, target=target, marks=marks), Entry(ABSENT, math.inf), Entry("0", 0)]
        else:
            mean, text = evidence.mean, with_spread(evidence.mean, evidence.training_std)
            marks = notes.mark(*evidence.notes)
            entries.append(Entry(text, mean or 0.0, (cell.id, False) in best, target, marks))
            sampling = spread.sampling
            entries.append(Entry(*_number(sampling, f".{decimals(sampling)}f")))
            entries.append(Entry(str(spread.n), spread.n))
        if self.published:
            entries += [self._difference(verdict), self._ruling(verdict, target)]
        hours = [record.training.seconds / 3600 for record in evidence.records]
        entries += [
            self._parameters(cell, notes),
            *([Entry(*self._budget(cell))] if budget else []),
            _hours(hours),
        ]
        return entries

    def _published(self, cell: Cell, best: set[tuple[str, bool]], notes: Notes) -> Entry:
        published = cell.published
        if published is None:
            return Entry(ABSENT, math.inf)
        text = f"{published.value:g}"
        if published.error is not None:
            places = max(len(f"{number:g}".partition(".")[2]) for number in (published.value, published.error))
            text = f"{published.value:.{places}f} ± {published.error:.{places}f}"
        marks = notes.mark(self.table.sources[published.source], self._conditions(published), published.note)
        return Entry(text, published.value, (cell.id, True) in best, marks=marks)

    def _conditions(self, published: Published) -> str:
        """Say of a published figure what its source does not, or says otherwise than the cell."""
        parts = []
        if published.error is None:
            parts.append("printed without ±")
        if published.aggregation != "mean":
            unknown = published.aggregation == "unknown"
            parts.append("not said whether a mean or a minimum" if unknown else "the minimum over sampling seeds")
        if published.budget != "same":
            parts.append("made at another budget" if published.budget == "other" else "its budget is not known")
        return ", ".join(parts)

    def _difference(self, verdict: Verdict | None) -> Entry:
        if verdict is None or verdict.difference is None:
            return Entry(ABSENT, math.inf)
        return Entry(with_interval(verdict.difference, verdict.difference_95), verdict.difference)

    def _ruling(self, verdict: Verdict | None, target: str) -> Entry:
        if verdict is None:
            return Entry(ABSENT, "~")
        more = f" (+{verdict.further_seeds})" if verdict.further_seeds else ""
        return Entry(f"{SIGNS[verdict.verdict]} {verdict.verdict}{more}", verdict.verdict, target=target)

    def _parameters(self, cell: Cell, notes: Notes) -> Entry:
        """Return parameters in millions, our network's where there is one, with a note where the published differ."""
        records, published = self.evidence[cell.id].records, cell.row.parameters
        ours = records[-1].parameters if records else None
        if ours is None:
            return Entry(*_number(published, "g"))
        text = f"{ours / 1e6:.3g}"
        differs = published is not None and f"{published:.3g}" != text
        return Entry(text, ours / 1e6, marks=notes.mark(f"published: {published:g}M parameters") if differs else ())

    def _budget(self, cell: Cell) -> tuple[str, float]:
        images = cell.config.budget
        return (format_budget(images), images) if images else (ABSENT, math.inf)

    def _caption(self, cells: list[Cell], axis: Axis | None) -> str:
        verdicts = [self.verdicts[cell.id] for cell in cells if cell.id in self.verdicts]
        if axis:
            sentences = [f"{self.metric}{self._nfe(cells)}: mean ± standard deviation over n training seeds."]
            sentences.append(sentence(axis.note))
            return " ".join(filter(None, [*sentences, _plan(verdicts)]))
        sentences = []
        found = [self.evidence[cell.id] for cell in cells]
        if not any(one.records for one in found):
            sentences.append(f"{self.metric}.")
        else:
            samples = sorted({record.config.samples for one in found for record in one.records})
            sentences.append(
                f"Ours: mean ± standard deviation over n training seeds of {self.metric} on "
                f"{' or '.join(f'{n:,}' for n in samples)} samples; apart, the standard deviation over sampling seeds."
            )
        sentences.append("Parameters in millions; budget in training images, K = 1,024 and M = 1,048,576.")
        return " ".join(filter(None, [*sentences, *self._rules(), _plan(verdicts)]))

    def _nfe(self, cells: list[Cell]) -> str:
        """Say at which number of network evaluations all cells are, nothing if they differ."""
        (nfe, *others) = {cell.nfe for cell in cells}
        return "" if others else f" in {nfe} network evaluation{'s' * (nfe > 1)}"

    def _rules(self) -> list[str]:
        """Say how published figures are judged."""
        table, sentences = self.table, []
        if self.published:
            if table.margin:
                sentences.append(
                    f"Reproduced: the 90% interval of ours minus published lies within ±{table.margin:g}, "
                    f"{table.margin_reason}; contradicted: the 95% interval lies outside."
                )
            if table.unstated_error:
                sentences.append(
                    f"A figure printed without ± counts as ±{table.unstated_error:g}, {table.unstated_error_reason}."
                )
        return sentences

    def _mark(self, cell: Cell, x: float | str, line: str) -> Mark:
        mark = _measured(line, x, list(self.evidence[cell.id].quoted.values()))
        if cell.published is None:
            return mark
        return replace(mark, published=cell.published.value, published_error=cell.published.error)

    def axis_chart(self, axis: Axis) -> list[Chart]:
        """Return an ablation's figure, if there is anything to show."""
        marks = [self._mark(self.table.cells[point.cell], point.x, point.line) for point in axis.points]
        title, scale = AXIS_TITLES.get(axis.x, axis.x), SCALES.get(axis.x, "names")
        anchor = slug(f"{self.table.name}-{axis.id}")
        return _shown(Chart(anchor, axis.title, title, self.metric, tuple(marks), axis.x, scale, sentence(axis.note)))

    def against_nfe(self) -> list[Chart]:
        """Return the score against the number of network evaluations, if any row has two."""
        rows = [row for row in self.table.rows if not row.ablation]
        if not any(len(row.cells) > 1 for row in rows):
            return []
        cells = [cell for cell in self.table.cells.values() if not cell.row.ablation]
        marks = [self._mark(c, c.nfe, c.row.label) for c in sorted(cells, key=lambda cell: cell.nfe)]
        anchor = slug(f"{self.table.name}-nfe")
        return _shown(Chart(anchor, "", "network evaluations", self.metric, tuple(marks), "nfe", "log"))

    def errors_by_phase(self) -> list[Chart]:
        """Return the distillation error after each phase, once for each method and schedule, in the fewest steps."""
        fewest = min(cell.nfe for cell in self.table.cells.values())
        seen: set[tuple[str, str, tuple[int, ...]]] = set()
        marks: list[Mark] = []
        for cell in self.table.cells.values():
            records = self.evidence[cell.id].records
            if cell.nfe != fewest or not records or not records[0].config.schedule:
                continue
            config = records[0].config
            key = (config.method, config.process, config.schedule)
            if key in seen:
                continue
            seen.add(key)
            for number, phase in enumerate(records[0].distillation_errors):
                values = list({r.config.seed: r.distillation_errors[number].error for r in records}.values())
                marks.append(_measured(cell.row.label, phase.end, values))
        title, note = (
            "Distillation error after each phase",
            "To the method's own teacher, same noises.",
        )
        anchor, y_title = slug(f"{self.table.name}-errors"), "mean squared distance"
        return _shown(Chart(anchor, title, "steps left", y_title, tuple(marks), "steps", "steps", note))

    def claims(self) -> list[Sheet]:
        """Return the claims and what was found."""
        table, notes = self.table, Notes()
        if not table.claims:
            return []
        verdicts = [self.verdicts[f"{table.name}/{claim.id}"] for claim in table.claims]
        rows = [self._claim(claim, verdict, notes) for claim, verdict in zip(table.claims, verdicts, strict=True)]
        columns = (
            Column("Claim", False, wide=True),
            Column("Verdict", False),
            Column("Left over right", False),
            Column(f"Ratio of {self.metric}, 95%"),
            *([Column("Published")] if self.published else []),
            Column("n"),
            Column("p"),
        )
        caption = (
            "Ratio: geometric mean over n shared training seeds of left over right in the comparison that decides. "
            f"Paired t tests on its logarithm; p after Holm's correction over all claims of tier {table.tier}, against "
            f"the claim where it is contradicted. {_plan(verdicts)}"
        )
        return [Sheet(slug(f"{table.name}-claims"), "Claims", caption.rstrip(), columns, tuple(rows), notes.texts)]

    def _claim(self, claim: Claim, verdict: Verdict, notes: Notes) -> tuple[Entry, ...]:
        margin = f"margin ±{claim.margin:g}, {claim.margin_reason}" if claim.margin else ""
        target = cell_anchor(verdict.id)
        p = verdict.p_against if verdict.verdict == "contradicted" else verdict.p
        left, right = (name.partition("/")[2] for name in (verdict.compared[0].left, verdict.compared[0].right))
        ratio = Entry(ABSENT, math.inf)
        if verdict.estimate is not None:
            ratio = Entry(with_interval(verdict.estimate, verdict.interval), verdict.estimate, target=target)
        return (
            Entry(claim.text, claim.text, marks=notes.mark(self.table.sources[claim.source], claim.note, margin)),
            replace(self._ruling(verdict, target), marks=notes.mark("; ".join(verdict.notes))),
            Entry(f"{left} : {right}", left),
            ratio,
            *([Entry(*_number(verdict.published, ".2f"))] if self.published else []),
            Entry(str(verdict.n), verdict.n),
            Entry(*_number(p, ".2g")),
        )

    def samples(self) -> dict[int, list[Sample]]:
        """Return, for each NFE, a run of each row: the one of the lowest seeds."""
        by_nfe: dict[int, list[Sample]] = {}
        for cell in self.table.cells.values():
            records = self.evidence[cell.id].records
            if records and not cell.row.ablation:
                first = min(records, key=lambda record: (record.config.seed, record.config.sampling_seeds))
                by_nfe.setdefault(cell.nfe, []).append(Sample(cell.row.label, first))
        return {
            nfe: [sample for sample in samples if _drawn_alike(sample, samples[0])] for nfe, samples in by_nfe.items()
        }


def _plan(verdicts: Iterable[Verdict]) -> str:
    """Say what stands behind inconclusive verdicts, nothing if there are none."""
    if not any(verdict.verdict == "inconclusive" for verdict in verdicts):
        return ""
    return (
        "In brackets: so many more training seeds would complete the least number, or decide with a chance of "
        f"{POWER:.0%} if the truth is as estimated; without a number, none up to {MAX_SEEDS:,} would, or footnotes say "
        "what hinders."
    )


def _measured(line: str, x: float | str, values: list[float]) -> Mark:
    """Return a place of a chart with the mean of one value for each training seed."""
    own = difference(values)
    return Mark(line, x, statistics.fmean(values) if values else None, own.interval() if own else None, len(values))


def _shown(chart: Chart) -> list[Chart]:
    """Return a chart, none if it would not have two places to compare."""
    return [chart] if sum((mark.ours, mark.published) != (None, None) for mark in chart.marks) > 1 else []


def _hours(hours: Sequence[float]) -> Entry:
    """Return the mean of training times, to two figures."""
    mean = statistics.fmean(hours) if any(hours) else None
    return Entry(*_number(mean, ".2g" if mean is None or mean < 10 else ".0f"))


def sentence(text: str) -> str:
    """Return text as a sentence, nothing for nothing."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _drawn_alike(one: Sample, other: Sample) -> bool:
    """Whether both pictures start from the same noises."""
    return one.record.config.sampling_seeds[0] == other.record.config.sampling_seeds[0]


def _number(value: float | None, form: str) -> tuple[str, float]:
    """Return a number's text and what it is sorted by; none sorts last."""
    return (ABSENT, math.inf) if value is None else (format(value, form), value)
