"""What of our scores a published figure is compared with: for a minimum, minima over as many runs."""

from __future__ import annotations

from tractbench.claims.published import Published
from tractbench.reports.evidence import Evidence


def seeds_each(published: Published) -> int:
    """Return how many training seeds make one observation."""
    over_training = published.aggregation == "minimum" and published.over == "training"
    return (published.runs or 1) if over_training else 1


def observed(published: Published, evidence: Evidence, seeds: int | None = None) -> tuple[list[float], str]:
    """Return our observations of a figure, independent of each other, and what hinders them.

    A mean, or a figure of which nothing is said, is observed once by each training seed. A minimum over ``runs`` sets
    of samples is observed by the minimum of so many sampling seeds of each training seed; one over ``runs`` trainings
    by the minimum of each ``runs`` training seeds, in their order, what is left over not counting.

    Args:
        published: the figure.
        evidence: our scores.
        seeds: count the first so many training seeds only; None for all.

    Returns:
        The observations, and why there are none; "" where there are.
    """
    quoted = list(evidence.quoted.items())[:seeds]
    if published.aggregation != "minimum":
        return [value for _, value in quoted], ""
    if published.runs is None:
        return [], "the published figure is a minimum over a number of runs that its source does not say"
    if published.over == "sampling":
        each = {seed: [evidence.scores[seed][at] for at in sorted(evidence.scores[seed])] for seed, _ in quoted}
        found = [min(scores[: published.runs]) for scores in each.values() if len(scores) >= published.runs]
        return found, "" if found else f"a minimum of {published.runs} sampling seeds needs as many of ours"
    values = [value for _, value in quoted]
    whole = len(values) // published.runs
    found = [min(values[k * published.runs : (k + 1) * published.runs]) for k in range(whole)]
    return found, "" if found else f"a minimum of {published.runs} training seeds needs as many of ours"
