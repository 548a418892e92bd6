"""Writes the results as HTML, LaTeX, Markdown or CSV."""

from __future__ import annotations

import base64
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from tractbench.errors import StoreError, nearest_name
from tractbench.evaluation.protocols import Protocol, load_protocol
from tractbench.reports.figures import error_figure, loss_figure
from tractbench.reports.frames import budget_text, cell_frame, run_frame
from tractbench.results.record import Record
from tractbench.results.store import Store

LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "±": r"$\pm$", "∞": r"$\infty$", "→": r"$\to$", "é": r"\'e",
} | {character: f"\\{character}" for character in "&%$#_{}"}  # fmt: skip

METRIC_TITLES = {
    "fd_pixel": "FD, pixels",
    "fd_feature": "FD, features",
    "fd_pixel_held_out": "FD, pixels, held out",
    "fd_feature_held_out": "FD, features, held out",
    "nn_ratio": "NN ratio",
    "fd_exact": "FD to the truth",
    "sliced_w2": "Sliced W2",
    "fid": "FID",
    "fid_infinity": "FID∞",
    "kid": "KID",
    "precision": "Precision",
    "recall": "Recall",
    "inception_score": "IS",
}


GLOSSES = {
    "fid": "FID is the Fréchet inception distance, lower is better.",
    "fd_": "FD is the Fréchet distance, lower is better; none of these is a FID.",
    "nn_ratio": "NN ratio: distance to the nearest training image over that to the nearest held-out one, 0 for a "
    "sampler that repeats its training images.",
    "sliced_w2": "Sliced W2: root mean square Wasserstein-2 distance of projections to those of fresh true points.",
}
"""What a table's caption says of its metrics, by the beginning of their names."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, whether it holds numbers, and whether it stands in a printed table."""

    title: str
    number: bool = True
    printed: bool = True


@dataclass(frozen=True)
class Cell:
    """One entry: its text and the number it is sorted by."""

    text: str
    value: float | str


@dataclass(frozen=True)
class Section:
    """One table: one data set, one tier, one protocol - never mixed; ``floors`` are in the order of its metrics."""

    dataset: str
    tier: str
    protocol: Protocol
    columns: list[Column]
    rows: list[list[Cell]]
    best: set[tuple[int, int]]
    floors: list[float | None]
    caption: str


def escape_latex(text: str) -> str:
    """Return text in which no character has a meaning to LaTeX, and none is unknown to it."""
    return "".join(LATEX.get(c, c if c.isascii() and c.isprintable() else "?") for c in text)


def latex_label(text: str) -> str:
    """Return a label's part: letters and digits, anything else a hyphen."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def with_spread(mean: float, std: float, plus_minus: str = " ± ") -> str:
    """Write a mean and its spread to the spread's second figure, beyond three decimals to its first; ``-`` for none."""
    if mean is None or math.isnan(mean):
        return "-"
    if std is None or math.isnan(std):
        return f"{mean:.3f}"
    first = -math.floor(math.log10(std)) if std > 0 else 3
    decimals = max(0, min(first + 1, max(3, first)))
    return f"{mean:.{decimals}f}{plus_minus}{std:.{decimals}f}"


def sections(records: list[Record]) -> list[Section]:
    """Return one table for each data set, tier and protocol among the records."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        config = record.config
        groups.setdefault((config.dataset, config.tier, config.protocol), []).append(record)
    result = []
    for (dataset, tier, protocol_name), group in sorted(groups.items()):
        protocol = load_protocol(protocol_name)
        standing = [record for record in group if not disqualified(record)]
        note = _left_out(group)
        if not standing:
            result.append(Section(dataset, tier, protocol, [], [], set(), [], note))
            continue
        group = standing
        metrics = tuple(m for m in protocol.metrics if any(m in r.metrics for r in group)) or protocol.metrics
        protocol = protocol.model_copy(update={"metrics": metrics})
        cells = cell_frame(group, protocol.metrics)
        scored = [record for record in group if record.floors]
        floors = [scored[-1].floors.get(name) if scored else None for name in protocol.metrics]
        rows, best = _rows(cells, protocol.metrics)
        result.append(
            Section(
                dataset,
                tier,
                protocol,
                _columns(protocol.metrics),
                rows,
                best,
                floors,
                " ".join(filter(None, (_caption(cells, protocol), _deviations(group), note))),
            )
        )
    return result


def disqualified(record: Record) -> str | None:
    """Return why a record's scores stand in no table: other Inception weights or other data than the published ones."""
    if record.basis and not record.basis.get("verified", True):
        return "not a FID, as the weights are not the published Inception weights"
    return next((text for text in record.deviations if text.startswith("data: ")), None)


def _left_out(records: list[Record]) -> str:
    reasons = Counter(reason for record in records if (reason := disqualified(record)))
    return " ".join(f"Left out: {count} run{'s' * (count > 1)} ({reason})." for reason, count in reasons.items())


def _deviations(records: list[Record]) -> str:
    found = sorted({text for record in records for text in record.deviations})
    return f"Deviates from the protocol: {'; '.join(found)}." if found else ""


def _caption(cells: pd.DataFrame, protocol: Protocol) -> str:
    """Say what the numbers of a table are."""
    samples = " or ".join(f"{n:,}" for n in sorted(set(cells["samples"])))
    sentences = [f"Mean ± standard deviation over sampling seeds, {samples} samples each; protocol {protocol.name}:"]
    sentences.append(protocol.description)
    if (cells["training_seeds"] > 1).any():
        sentences.append("Behind a slash: the standard deviation over training seeds.")
    sentences += [
        gloss for prefix, gloss in GLOSSES.items() if any(name.startswith(prefix) for name in protocol.metrics)
    ]
    sentences.append(
        "Distillation error: mean squared distance to the teacher in all its steps, from the same 512 noises."
    )
    return " ".join(sentences)


def _columns(metrics: tuple[str, ...]) -> list[Column]:
    return [
        Column("Method", False),
        Column("NFE"),
        *(Column(METRIC_TITLES.get(name, name), printed=not name.endswith("_held_out")) for name in metrics),
        Column("Distillation error"),
        Column("Seeds"),
        Column("Budget"),
        Column("Schedule", False, printed=False),
        Column("Parameters"),
        Column("Settings", False, printed=False),
    ]


def _rows(cells: pd.DataFrame, metrics: tuple[str, ...]) -> tuple[list[list[Cell]], set[tuple[int, int]]]:
    rows: list[list[Cell]] = []
    for cell in cells.to_dict("records"):
        row = [
            Cell(str(cell["method"]), str(cell["method"])),
            Cell(f"{cell['nfe_spent']:.0f}", cell["nfe_spent"]),
        ]
        for name in metrics:
            text = with_spread(cell[name], cell[f"{name}_sampling_std"])
            if cell["training_seeds"] > 1:
                text += f" / {cell[f'{name}_training_std']:.2g}"
            row.append(Cell(text, float(cell[name]) if text != "-" else math.inf))
        seeds = f"{cell['training_seeds']} x {cell['sampling_seeds'] / max(1, cell['training_seeds']):g}"
        settings = f"failed: {cell['reason']}" if cell["reason"] else str(cell["settings"])
        parameters = cell["parameters"]
        known = parameters is not None and not math.isnan(parameters)
        error = float(cell["distillation_error"])
        row += [
            Cell("-" if math.isnan(error) else f"{error:.3g}", error if error == error else math.inf),
            Cell(seeds, cell["sampling_seeds"]),
            Cell(budget_text(cell["budget"]), cell["budget"]),
            Cell(str(cell["schedule"]).replace(",", " → ") or "-", str(cell["schedule"])),
            Cell(f"{parameters:,.0f}" if known else "-", parameters if known else 0),
            Cell(settings or "-", settings),
        ]
        rows.append(row)
    best: set[tuple[int, int]] = set()
    for offset, name in enumerate(metrics):
        if name.startswith(("fd_", "fid")):
            for _, group in cells.dropna(subset=[name]).groupby("nfe_spent"):
                if len(group) > 1:
                    best.add((group.index.tolist()[int(group[name].astype(float).argmin())], 2 + offset))
    return rows, best


def render(store: Store, output: str, *, tier: str | None = None, dataset: str | None = None) -> str:
    """Return the report on a store's results.

    Args:
        store: the store.
        output: ``html``, ``latex``, ``markdown`` or ``csv``.
        tier: only this tier.
        dataset: only this data set.

    Raises:
        StoreError: there is nothing to report.
    """
    records = store.latest()
    if not records:
        raise StoreError(f"no runs in {store.root} yet; make some with 'tractbench run', or name another --runs folder")
    for name, wanted in (("tier", tier), ("dataset", dataset)):
        known = {getattr(r.config, name) for r in records}
        if wanted is not None and wanted not in known:
            raise StoreError(f"no runs of {name} '{wanted}' in {store.root}{nearest_name(wanted, known)}")
        records = [r for r in records if wanted in (None, getattr(r.config, name))]
    if output == "csv":
        return run_frame(records).to_csv(index=False, lineterminator="\n")
    tables = sections(records)
    if output == "html":
        return (
            _environment(autoescape=True)
            .get_template("report.html")
            .render(
                infinity=math.inf,
                sections=tables,
                runs=[_run_view(store, r) for r in reversed(records)],
                latest=records[-1],
            )
        )
    if output == "latex":
        marks = {"block_start_string": "<%", "block_end_string": "%>"}
        marks |= {"variable_start_string": "<<", "variable_end_string": ">>", "comment_start_string": "<#"}
        environment = _environment(autoescape=False, **marks)
        environment.filters |= {"tex": escape_latex, "label": latex_label}
        environment.globals |= {"printed_row": _printed_row, "printed_floors": _printed_floors}
        return environment.get_template("report.tex").render(sections=tables)
    return "\n".join(_markdown(table) for table in tables)


def _environment(autoescape: bool, **marks: str) -> Environment:
    return Environment(
        loader=PackageLoader("tractbench.reports"),
        autoescape=autoescape,  # off for LaTeX only, where every value goes through escape_latex  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **marks,  # type: ignore[arg-type]
    )


def _printed_row(section: Section, index: int) -> list[str]:
    """Return a row's printed cells in LaTeX, the best in bold; unusual settings follow the method's name."""
    cells = []
    for number, (column, cell) in enumerate(zip(section.columns, section.rows[index], strict=True)):
        text = escape_latex(cell.text)
        if number == 0 and section.rows[index][-1].text != "-":
            text += escape_latex(f" ({section.rows[index][-1].text})")
        if column.printed:
            cells.append(rf"\textbf{{{text}}}" if (index, number) in section.best else text)
    return cells


def _printed_floors(section: Section) -> list[str]:
    pairs = zip(section.columns[2:], section.floors, strict=False)
    return ["-" if value is None else f"{value:.3f}" for column, value in pairs if column.printed]


def _markdown(table: Section) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = [line([c.title for c in table.columns]), line(["---:" if c.number else "---" for c in table.columns])]
    rows = [
        line([f"**{cell.text}**" if (r, c) in table.best else cell.text for c, cell in enumerate(row)])
        for r, row in enumerate(table.rows)
    ]
    titles = [column.title for column in table.columns[2:]]
    floors = ", ".join(f"{title} {value:.3f}" for title, value in zip(titles, table.floors, strict=False) if value)
    title = f"### {table.dataset}, tier {table.tier}"
    if not table.rows:
        return "\n".join([title, "", table.caption, ""])
    floor = [f"{table.protocol.floor}: {floors}."] if floors else []
    return "\n".join([title, "", *head, *rows, "", table.caption, *floor, ""])


def _run_view(store: Store, record: Record) -> dict[str, Any]:
    folder = store.root / record.folder
    picture = folder / "samples.png"
    curve = folder / "loss.csv"
    return {
        "record": record,
        "title": f"{record.config.method}, {record.config.nfe} NFE, seed {record.config.seed} ({record.config.tier})",
        "picture": base64.b64encode(picture.read_bytes()).decode() if picture.exists() else None,
        "losses": loss_figure(curve) if curve.exists() else None,
        "errors": error_figure(record.distillation_errors) if len(record.distillation_errors) > 1 else None,
        "details": record.model_dump_json(indent=2),
    }
