"""A table as every format shows it: columns, entries with the number they are sorted by, and footnotes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

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
    "fd_dinov2": "FD-DINOv2",
    "fd_clip": "FD-CLIP",
    "mmd_clip": "MMD, CLIP",
}
"""How a metric is called in a table's head; others go by their own names."""

_SPACES = {"inception": "Inception", "dinov2": "DINOv2", "clip": "CLIP", "pixel": "pixels", "feature": "features"}
_NEIGHBOURS = {"density": "Density", "coverage": "Coverage", "authenticity": "Authenticity", "ct": "C_T"}
METRIC_TITLES |= {
    f"{metric}_{space}": f"{title}, {where}"
    for space, where in _SPACES.items()
    for metric, title in _NEIGHBOURS.items()
}

ABSENT = "-"
"""What stands in place of a number that there is not."""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: its head.
        number: it holds numbers: aligned and sorted as such.
        printed: it stands in a printed table too.
        wide: it holds sentences, which may wrap.
    """

    title: str
    number: bool = True
    printed: bool = True
    wide: bool = False


@dataclass(frozen=True)
class Entry:
    """One entry.

    Attributes:
        text: what is shown.
        value: what it is sorted by.
        best: it is the best of its kind.
        target: anchor of what stands behind it.
        marks: letters of its footnotes.
    """

    text: str
    value: float | str = ""
    best: bool = False
    target: str = ""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        id: its anchor.
        title: what it shows.
        caption: what its numbers are.
        columns: its columns.
        rows: one entry for each column; there may be none.
        notes: footnotes by their letters.
        foot: a last row that is not sorted, such as what real data score.
        best: what bold entries are.
    """

    id: str
    title: str
    caption: str
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[Entry, ...], ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
    foot: tuple[Entry, ...] = ()
    best: str = "Best of each NFE in bold."

    @property
    def legend(self) -> str:
        """The caption, and what bold means where there is any."""
        return f"{self.caption} {self.best}" if any(entry.best for row in self.rows for entry in row) else self.caption


class Notes:
    """Footnotes of one table in the order in which they are first asked for; equal texts share a letter."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def mark(self, *texts: str) -> tuple[str, ...]:
        """Return the letters of the texts that are not empty, in the order of the alphabet."""
        for text in filter(None, texts):
            self._letters.setdefault(text, _letters(len(self._letters)))
        return tuple(sorted({self._letters[text] for text in texts if text}, key=lambda mark: (len(mark), mark)))

    @property
    def texts(self) -> dict[str, str]:
        """The texts by their letters."""
        return {letter: text for text, letter in self._letters.items()}


def _letters(number: int) -> str:
    """Return a, b, ..., z, aa, ab, ... for 0, 1, ..., 25, 26, 27, ..."""
    before, last = divmod(number, 26)
    return (_letters(before - 1) if before else "") + chr(ord("a") + last)


def slug(text: str) -> str:
    """Return an anchor: letters and digits, anything else a hyphen."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def decimals(std: float | None) -> int:
    """Return how many decimals show a spread's second figure, beyond three its first; 3 without a spread."""
    if std is None or not 0 < std < math.inf:
        return 3
    first = -math.floor(math.log10(std))
    return max(0, min(first + 1, max(3, first)))


def with_spread(mean: float | None, std: float | None) -> str:
    """Write a mean and its spread, to the decimals that the spread makes sensible; ``-`` for none."""
    if mean is None or math.isnan(mean):
        return ABSENT
    if std is None or math.isnan(std):
        return f"{mean:.3f}"
    return f"{mean:.{decimals(std)}f} ± {std:.{decimals(std)}f}"


def with_spreads(mean: float, training: float, sampling: float) -> str:
    """Write a mean, its spread over training seeds and in brackets that over sampling seeds, each if it is not NaN."""
    if math.isnan(mean):
        return ABSENT
    shown = f"{mean:.{decimals(sampling)}f}" if math.isnan(training) else with_spread(mean, training)
    return shown if math.isnan(sampling) else f"{shown} ({sampling:.{decimals(sampling)}f})"


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """Write a number and its interval, to the decimals that the interval's width makes sensible."""
    if interval is None:
        return f"{value:.2f}"
    low, high = interval
    places = decimals((high - low) / 4)
    shown, *ends = (f"{round(number, places) + 0.0:.{places}f}" for number in (value, low, high))  # no -0.00
    return f"{shown} [{', '.join(ends)}]"
