"""The demo: one page in which a slider spends network evaluations on the same noise."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tractbench.datasets.mixture2d import SPREAD, Mixture2D
from tractbench.pipeline.demo import Demo
from tractbench.pipeline.demo_images import NOISES, STEPS, Made
from tractbench.pipeline.demo_walks import Walk
from tractbench.reports.demo_figures import METRIC, Figure, Line, chart, figures, line_of
from tractbench.reports.drawing import PALETTE
from tractbench.reports.page import page_environment
from tractbench.reports.sheet import METRIC_TITLES, with_spread
from tractbench.results.record import Record

START = 2
"""Place of the slider when the page opens; where there are students it is at one evaluation, which they are for."""

UNIT = 8192
"""Numbers of one length in the plane: coordinates are kept as 16-bit numbers."""

NOISE_RANGE = 2.5
"""Noise of this size is white, of minus this size black."""

TEACHER = Line("ddim", "")
USUAL = {TEACHER: "the teacher itself"}
"""What stands under a method's name in place of settings."""


def render_demo(demo: Demo, records: Sequence[Record], shipped: Sequence[Record], command: str, runs: str) -> str:
    """Return a page that needs nothing from outside, the same bytes for the same results.

    Args:
        demo: what was computed.
        records: the user's runs, for their distances.
        shipped: runs that come with the package, likewise.
        command: the command that makes the page, for its foot.
        runs: how the user calls the folder of results.
    """
    found = [*figures(records, "yours"), *figures(shipped, "shipped")]
    cards = _cards(demo.made, found)
    walks = [_walk(walk, demo.ode) for walk in demo.walks]
    students = [walk["title"] for walk, own in zip(walks, demo.walks, strict=True) if own.record]
    first = next((index for index, walk in enumerate(demo.walks) if walk.record and walk.nfe == 1), START)
    start = 0 if len(cards) > 1 else START
    data = {
        "steps": STEPS,
        "noises": NOISES,
        "cards": [card["shots"] for card in cards],
        "unit": UNIT,
        "palette": PALETTE,
        "modes": Mixture2D().means.tolist(),
        "spread": SPREAD,
        "ode": {"angles": _rounded(demo.ode.angles), "states": _packed(demo.ode.states)},
        "walks": walks,
        "ends": _modes(demo.ode),
    }
    return (
        page_environment()
        .get_template("demo.html")
        .render(
            command=command,
            cards=cards,
            chart=chart(found),
            data=data,
            demo=demo,
            figures=found,
            first=first,
            metric=METRIC_TITLES[METRIC],
            nfes=sorted({figure.nfe for figure in found}),
            noises=NOISES,
            rows=_rows(found),
            runs=runs,
            sprite=_sprite(demo),
            start=start,
            steps=STEPS,
            students=students,
            walks=walks,
        )
    )


# --- images


def _sprite(demo: Demo) -> str:
    """Return all images as one PNG in base 64: a column a noise; the noises, then a row a sampler."""
    rows = [(demo.noises / NOISE_RANGE).clamp(-1, 1), *(made.images for made in demo.made)]
    grid = torch.stack([row[:, 0].permute(1, 0, 2).flatten(1) for row in rows]).flatten(0, 1)  # [R * 8, NOISES * 8]
    pixels = ((grid + 1) * 127.5).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def _cards(made: Sequence[Made], found: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return a card for the teacher and one for each line of students, with what is shown at each NFE and seed."""
    lines: dict[Line, list[dict[str, Any]]] = {}
    for row, one in enumerate(made, 1):  # row 0 is the noise
        line = line_of(one.record) if one.record else TEACHER
        shot = {
            "row": row,
            "nfe": one.nfe,
            "seed": one.record.config.seed if one.record else None,
            "distances": [round(float(distance), 2) for distance in one.distances],
            "figures": [_said(figure) for figure in found if (figure.line, figure.nfe) == (line, one.nfe)],
        }
        lines.setdefault(line, []).append(shot)
    return [
        {"title": line.method, "detail": line.settings or USUAL.get(line, "usual settings"), "shots": shots}
        for line, shots in lines.items()
    ]


def _said(figure: Figure) -> tuple[str, str]:
    """Return a distance, and over what and whose runs it is."""
    return figure.text, f"{figure.seeds}{', shipped' * (figure.whose == 'shipped')}"


def _rows(found: Sequence[Figure]) -> list[dict[str, Any]]:
    """Return the rows of the table of distances: a line of whose runs, its figures by NFE, a command."""
    rows: dict[tuple[Line, str], dict[int, Figure]] = {}
    for figure in found:
        rows.setdefault((figure.line, figure.whose), {})[figure.nfe] = figure
    return [
        {"line": line, "whose": whose, "figures": by_nfe, "command": next(iter(by_nfe.values())).command}
        for (line, whose), by_nfe in sorted(rows.items(), key=lambda item: (item[0][0], item[0][1] == "shipped"))
    ]


# --- ways


def _walk(walk: Walk, ode: Walk) -> dict[str, Any]:
    """Return the ways of one sampler, and how far from those of the ODE they end."""
    ends, wanted = walk.states[-1], ode.states[-1]
    away = float((ends - wanted).norm(dim=1).mean())
    strayed = float((_nearest(ends) != _nearest(wanted)).double().mean())
    steps = f"{walk.nfe} step{'s' * (walk.nfe > 1)}"
    title, score = f"teacher (DDIM), {steps}", ""
    if walk.record:
        title = f"{line_of(walk.record)}, {steps}, seed {walk.record.config.seed}"
        if truth := walk.record.metrics.get("fd_exact"):
            score = f" FD to the truth {with_spread(truth.mean, truth.std)}."
    return {
        "title": title,
        "angles": _rounded(walk.angles),
        "states": _packed(walk.states),
        "text": f"Ends {away:.2f} away from the ODE on average; {100 * strayed:.0f}% of the points end nearest to "
        f"another mode than the ODE's.{score}",
    }


def _nearest(points: Tensor) -> Tensor:
    """Return the nearest mode of each point ``[N, 2]``."""
    return torch.cdist(points.double(), Mixture2D().means).argmin(1)


def _modes(ode: Walk) -> list[int]:
    return [int(mode) for mode in _nearest(ode.states[-1])]


def _rounded(angles: Tensor) -> list[float]:
    return [round(float(angle), 5) for angle in angles]


def _packed(states: Tensor) -> str:
    """Return states ``[T, N, 2]`` as little-endian 16-bit numbers in base 64."""
    numbers = (states * UNIT).round().clamp(-32768, 32767).numpy().astype(np.dtype("<i2"))
    return base64.b64encode(numbers.tobytes()).decode()
