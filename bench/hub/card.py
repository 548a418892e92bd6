"""The card of a results store on the Hub: what it is, its scores with intervals, and how to use it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from tractbench.errors import TractbenchError
from tractbench.evaluation.protocols import load_protocol
from tractbench.reports.frames import budget_text, cell_frame
from tractbench.reports.machines import machine
from tractbench.reports.overview import disqualified, gloss
from tractbench.reports.render import render_sheet
from tractbench.reports.safe_text import markdown_text
from tractbench.reports.sheet import ABSENT, METRIC_TITLES, Column, Entry, Sheet, slug, with_interval
from tractbench.results.record import Record
from tractbench.results.statistics import Difference

CARD = "README.md"
BEGIN, END = "<!-- tractbench: begin -->", "<!-- tractbench: end -->"
"""What is between these two is written anew by every push; the rest of a card is its owner's."""


def store_card(name: str, records: Sequence[Record], before: str | None) -> str | None:
    """Return the card of a store, as Markdown with metadata.

    Args:
        name: OWNER/NAME.
        records: all runs that the repository will hold.
        before: the card that is there; what its owner wrote around the tables stays. None if there is none.

    Returns:
        The card; None if the one that is there is its owner's altogether.
    """
    body = f"{BEGIN}\n\n{_body(name, records)}\n{END}"
    if before is None:
        return f"{_metadata(records)}\n# {name.partition('/')[2]}\n\n{body}\n"
    start, end = before.find(BEGIN), before.find(END)
    if start < 0 or end < start:
        return None
    return before[:start] + body + before[end + len(END) :]


def _metadata(records: Sequence[Record]) -> str:
    """Return the front matter, as the Hub's documentation of dataset cards describes it."""
    datasets = sorted({record.config.dataset for record in records})
    lines = [
        "---",
        f"pretty_name: {json.dumps('tractbench results on ' + ', '.join(datasets))}",
        "tags:",
        *(f"- {tag}" for tag in ("tractbench", "diffusion", "distillation", "benchmark")),
        "viewer: false",
        "---",
    ]
    return "\n".join(lines) + "\n"


def _body(name: str, records: Sequence[Record]) -> str:
    done = sum(record.status == "done" for record in records)
    rest = f", {len(records) - done} of them failed or interrupted" if done < len(records) else ""
    folder = name.partition("/")[2]
    parts = [
        f"{len(records)} run{'s' * (len(records) != 1)} of few-step diffusion distillation made with `tractbench`"
        f"{rest}. The repository is a results store: each run has a sealed record with its settings, seeds, scores, "
        "hashes and versions.",
        "",
        "```sh",
        "pip install 'tractbench[hub]'",
        f"tractbench pull store {name}",
        f"tractbench report --runs {folder}",
        "```",
        "",
        f"`tractbench pull store {name} --into runs` brings them beside runs of your own. Every file is compared with "
        "its hash, and a run that is there with other scores is refused.",
        "",
        "Scores are means over training seeds, with their 95% interval by Student's t where there are two or more.",
        "",
    ]
    parts += [render_sheet(sheet) for sheet in score_sheets(records)]
    parts += ["### Made with", "", *(f"- {markdown_text(line)}" for line in sorted(set(map(machine, records)))), ""]
    return "\n".join(parts)


def score_sheets(records: Sequence[Record]) -> list[Sheet]:
    """Return a table for each data set, tier and protocol: each cell's means with intervals over training seeds."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        config = record.config
        groups.setdefault((config.dataset, config.tier, config.protocol), []).append(record)
    return [_sheet(*key, group) for key, group in sorted(groups.items())]


def _sheet(dataset: str, tier: str, protocol_name: str, group: list[Record]) -> Sheet:
    standing = [record for record in group if not disqualified(record)]
    found = {name: None for record in standing for name in record.metrics}
    try:
        protocol = load_protocol(protocol_name)
        metrics = tuple(name for name in protocol.metrics if name in found)
        described = f"Protocol {protocol.name}: {protocol.description}"
    except TractbenchError:  # of a plugin that is not here
        metrics, described = tuple(found), f"Protocol {protocol_name}."
    columns = (
        Column("Method", number=False),
        Column("NFE"),
        *(Column(METRIC_TITLES.get(name, name)) for name in metrics),
        Column("Training seeds"),
        Column("Budget"),
        Column("Settings", number=False),
    )
    rows = []
    for cell in cell_frame(standing, metrics).to_dict("records") if standing else ():
        n = int(cell["training_seeds"])
        settings = f"failed: {' '.join(str(cell['reason']).split())}" if cell["reason"] else str(cell["settings"])
        texts = [
            str(cell["method"]),
            f"{cell['nfe_spent']:.0f}",
            *(_score(float(cell[name]), float(cell[f"{name}_training_std"]), n) for name in metrics),
            f"{n}, {cell['failed']} failed" if cell["failed"] else str(n),
            budget_text(cell["budget"]),
            settings or ABSENT,
        ]
        rows.append(tuple(map(Entry, texts)))
    deviations = sorted({text for record in standing for text in record.deviations})
    caption = [described, gloss(metrics)]
    caption += [f"Deviates from the protocol: {'; '.join(deviations)}."] * bool(deviations)
    left_out = len(group) - len(standing)
    caption += [f"Left out: {left_out} of its runs, whose weights or data are not the published ones."] * bool(left_out)
    anchor = slug(f"scores-{dataset}-{tier}-{protocol_name}")
    return Sheet(anchor, f"{dataset}, tier {tier}", " ".join(filter(None, caption)), columns, tuple(rows))


def _score(mean: float, std: float, n: int) -> str:
    """Write a mean over training seeds and its 95% interval."""
    if math.isnan(mean):
        return ABSENT
    if n < 2 or math.isnan(std) or std <= 1e-12 * abs(mean):
        return f"{mean:.3f}"
    return with_interval(mean, Difference(mean, std / math.sqrt(n), n - 1).interval())
