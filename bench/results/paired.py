"""What stands beside a t test of paired scores: an exact sign-flip test, and the probability of improvement."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOST_FLIPS = 40
"""Pairs up to which all sign flips are counted; a million sums for each half of them."""


def sign_flip(differences: Sequence[float]) -> float | None:
    """Return the exact one-sided p value that paired differences lie below 0.

    Under the null hypothesis each difference has either sign with equal chance: of all 2^n ways to give the differences
    signs, the p value is the share whose sum is as low as the one found. It is never below 1 / 2^n.

    Returns:
        The p value; None without differences or for more than :data:`MOST_FLIPS`.
    """
    n = len(differences)
    if not 0 < n <= MOST_FLIPS:
        return None
    values = np.asarray(differences, dtype=np.float64)
    left, right = _sums(values[: n // 2]), np.sort(_sums(values[n // 2 :]))
    most = values.sum() + 1e-12 * float(np.abs(values).sum())  # sums that are equal but for rounding count as equal
    return float(np.searchsorted(right, most - left, side="right").sum()) / 2.0**n


def _sums(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sums of all ways to give values signs, [2^n]."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def improvement(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the probability that a run of ours scores lower than one of theirs, ties half; None without scores.

    Every run of the one is compared with every run of the other (Mann and Whitney; Agarwal et al. 2021).
    """
    if not ours or not theirs:
        return None
    below = np.subtract.outer(np.asarray(theirs, dtype=np.float64), np.asarray(ours, dtype=np.float64))
    return float((np.sign(below) + 1).mean() / 2)
