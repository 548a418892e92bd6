"""The tables of all runs: one for each data set, tier and protocol, never mixed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import pandas as pd

from tractbench.evaluation.protocols import NEIGHBOUR_METRICS, load_protocol
from tractbench.reports.frames import budget_text, cell_frame
from tractbench.reports.sheet import ABSENT, METRIC_TITLES, Column, Entry, Sheet, slug, with_spreads
from tractbench.results.record import Record

GLOSSES = {
    "fid": "FID is the Fréchet inception distance, lower is better.",
    "fd_": "FD is the Fréchet distance, lower is better; none of these is a FID.",
    "nn_ratio": "NN ratio: distance to the nearest training image over that to the nearest held-out one, 0 for a "
    "sampler that repeats its training images.",
    "mmd_": "MMD: 1,000 times the squared maximum mean discrepancy that CMMD is, in CLIP's features at 224 pixels.",
    "density": "Density, coverage: samples within training images' balls, and training images whose balls hold one.",
    "authenticity": "Authenticity: share of samples further from the nearest training image than that from its own.",
    "ct": "C_T: z-score of samples' distances to training images over held-out images' ones; far below 0 for copies.",
    "sliced_w2": "Sliced W2: root mean square Wasserstein-2 distance of projections to those of fresh true points.",
}
"""What a caption says of its metrics, by the beginning of their names."""


SECOND = {"fd_pixel_held_out", "fd_feature_held_out", "nn_ratio"}
"""Metrics for which a printed page has no room; nor has it for those by nearest neighbours."""


def overview(records: Sequence[Record], shown: Collection[str] = ()) -> list[Sheet]:
    """Return one table for each data set, tier and protocol among the records.

    Args:
        records: the runs.
        shown: identities of runs that are shown one by one: their rows lead to them.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        config = record.config
        groups.setdefault((config.dataset, config.tier, config.protocol), []).append(record)
    return [_sheet(*key, group, shown) for key, group in sorted(groups.items())]


def disqualified(record: Record) -> str | None:
    """Return why a record's scores stand in no table: other Inception weights or other data than the published ones."""
    if record.basis and not record.basis.get("verified", True):
        return "not a FID, as the weights are not the published Inception weights"
    return next((text for text in record.deviations if text.startswith("data: ")), None)


def gloss(metrics: Sequence[str]) -> str:
    """Say what metrics are."""
    return " ".join(text for prefix, text in GLOSSES.items() if any(name.startswith(prefix) for name in metrics))


def _sheet(dataset: str, tier: str, protocol_name: str, group: list[Record], shown: Collection[str]) -> Sheet:
    title = f"{dataset}, tier {tier}"
    anchor = slug(f"runs-{dataset}-{tier}-{protocol_name}")
    protocol = load_protocol(protocol_name)
    standing = [record for record in group if not disqualified(record)]
    reasons = Counter(reason for record in group if (reason := disqualified(record)))
    left_out = [f"Left out: {count} run{'s' * (count > 1)} ({reason})." for reason, count in reasons.items()]
    if not standing:
        return Sheet(anchor, title, " ".join(left_out))
    metrics = tuple(m for m in protocol.metrics if any(m in r.metrics for r in standing)) or protocol.metrics
    cells = cell_frame(standing, metrics)
    rows = _rows(cells, metrics, shown)
    scored = next((record for record in reversed(standing) if record.floors), None)
    return Sheet(
        anchor,
        title,
        " ".join([_caption(cells, protocol.name, protocol.description, metrics), *_deviations(standing), *left_out]),
        _columns(metrics),
        rows,
        foot=_floors(protocol.floor, metrics, scored) if scored else (),
    )


def _deviations(records: list[Record]) -> list[str]:
    found = sorted({text for record in records for text in record.deviations})
    return [f"Deviates from the protocol: {'; '.join(found)}."] if found else []


def _floors(name: str, metrics: tuple[str, ...], record: Record) -> tuple[Entry, ...]:
    values = [record.floors.get(metric) for metric in metrics]
    shown = [Entry(ABSENT if value is None else f"{value:.3f}") for value in values]
    return (Entry(name), Entry(""), *shown, *(Entry("") for _ in range(len(_columns(metrics)) - 2 - len(metrics))))


def _caption(cells: pd.DataFrame, protocol: str, description: str, metrics: tuple[str, ...]) -> str:
    """Say what the numbers of a table are."""
    samples = " or ".join(f"{n:,}" for n in sorted(set(cells["samples"])))
    sentences = [
        "Mean ± standard deviation over training seeds (standard deviation over sampling seeds, "
        f"{samples} samples each); protocol {protocol}:",
        description,
        gloss(metrics),
    ]
    sentences.append(
        "Distillation error: mean squared distance to the teacher in all its steps, from the same 512 noises. Budget: "
        "training images, K = 1,024 and M = 1,048,576."
    )
    return " ".join(filter(None, sentences))


def _columns(metrics: tuple[str, ...]) -> tuple[Column, ...]:
    return (
        Column("Method", False),
        Column("NFE"),
        *(
            Column(METRIC_TITLES.get(name, name), printed=name not in SECOND and not name.startswith(NEIGHBOUR_METRICS))
            for name in metrics
        ),
        Column("Distillation error"),
        Column("Seeds"),
        Column("Budget"),
        Column("Schedule", False, wide=True),
        Column("Parameters"),
        Column("Settings", False, wide=True),
    )


def _rows(cells: pd.DataFrame, metrics: tuple[str, ...], shown: Collection[str]) -> tuple[tuple[Entry, ...], ...]:
    best: set[tuple[int, str]] = set()
    for name in metrics:
        if name.startswith(("fd_", "fid")):
            for _, group in cells.dropna(subset=[name]).groupby("nfe_spent"):
                if len(group) > 1:
                    best.add((group.index.tolist()[int(group[name].astype(float).argmin())], name))
    rows = []
    for index, cell in enumerate(cells.to_dict("records")):
        identity = str(cell["identity"])
        row = [
            Entry(str(cell["method"]), str(cell["method"]), target=identity if identity in shown else ""),
            Entry(f"{cell['nfe_spent']:.0f}", cell["nfe_spent"]),
        ]
        for name in metrics:
            text = with_spreads(cell[name], cell[f"{name}_training_std"], cell[f"{name}_sampling_std"])
            row.append(Entry(text, float(cell[name]) if text != ABSENT else math.inf, (index, name) in best))
        seeds = f"{cell['training_seeds']} x {cell['sampling_seeds'] / max(1, cell['training_seeds']):g}"
        seeds += f", {cell['failed']} failed" if cell["failed"] else ""
        settings = f"failed: {' '.join(str(cell['reason']).split())}" if cell["reason"] else str(cell["settings"])
        parameters = cell["parameters"]
        known = parameters is not None and not math.isnan(parameters)
        error = float(cell["distillation_error"])
        row += [
            Entry(ABSENT if math.isnan(error) else f"{error:.3g}", error if error == error else math.inf),
            Entry(seeds, cell["sampling_seeds"]),
            Entry(budget_text(cell["budget"]), cell["budget"] or math.inf),
            Entry(str(cell["schedule"]).replace(",", " → ") or ABSENT, str(cell["schedule"])),
            Entry(f"{parameters:,.0f}" if known else ABSENT, parameters if known else 0),
            Entry(settings or ABSENT, settings),
        ]
        rows.append(tuple(row))
    return tuple(rows)
