"""The verdict on a teacher: whether its own samples score what is reported of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tractbench.claims.margins import Margin
from tractbench.results.record import Record
from tractbench.results.statistics import ALPHA, Difference, equivalent, minimum_std
from tractbench.teachers.reported import Reported

MARGIN = Margin(
    share=0.05,
    reason="the weights are the same, so that only sets of samples differ: of 50,000 they move a FID by 0.02 to 0.1. A "
    "wrong import moves it by units: on CIFAR-10, 8.06 for 3.21 where raw weights were taken for their average",
)
"""How far from the reported figure a score may be that reproduces it."""


class TeacherVerdict(BaseModel):
    """What a teacher's samples score, beside what is reported of it.

    Attributes:
        teacher: its name.
        verdict: by the rule for published figures, over sets of samples: ``reproduced`` when the 90% interval of the
            difference lies inside the margin, ``contradicted`` when the 95% interval lies wholly outside.
        metric: name of the score.
        estimate: ours, aggregated as the reported figure is: the mean, or the minimum over as many sets.
        interval: its 95% interval over sets of samples, None for a single set.
        sets: number of sets.
        samples: images in each.
        reported: the figure, None if nobody reports one.
        difference: ours minus the figure.
        difference_90: its 90% interval, the figure's own error included.
        difference_95: its 95% interval, likewise.
        margin: in the score's units.
        margin_reason: why so wide.
        notes: why there is no verdict, and what else a reader has to know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str
    verdict: Literal["reproduced", "contradicted", "inconclusive", "no verdict"]
    metric: str
    estimate: float
    interval: tuple[float, float] | None
    sets: int
    samples: int
    reported: Reported | None = None
    difference: float | None = None
    difference_90: tuple[float, float] | None = None
    difference_95: tuple[float, float] | None = None
    margin: float | None = None
    margin_reason: str = ""
    notes: tuple[str, ...] = ()


def judge_teacher(teacher: str, record: Record, metric: str, reported: Reported | None) -> TeacherVerdict:
    """Compare a run that sampled a teacher with what is reported of it.

    Args:
        teacher: its name.
        record: the run.
        metric: the score that its protocol quotes.
        reported: the figure, if there is one.
    """
    scores = record.metrics[metric].per_seed
    alike = reported is not None and record.config.protocol == reported.protocol
    runs = reported.runs if reported is not None and alike else None  # of a minimum
    used, least = scores[:runs], runs is not None
    estimate = min(used) if least else statistics.fmean(scores)
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    own = spread * (minimum_std(len(used)) if least else 1 / math.sqrt(len(scores)))
    found = TeacherVerdict(
        teacher=teacher,
        verdict="no verdict",
        metric=metric,
        estimate=estimate,
        interval=Difference(estimate, own, len(scores) - 1).interval() if own else None,
        sets=len(used),
        samples=record.config.samples,
        reported=reported,
    )
    if reported is None:
        return found.model_copy(update={"notes": ("no published figure is known to compare with",)})
    if reasons := _incomparable(record, metric, scores, reported):
        return found.model_copy(update={"notes": reasons})
    margin = MARGIN.of(reported.value)
    changes: dict[str, object] = {
        "difference": estimate - reported.value,
        "margin": margin,
        "margin_reason": MARGIN.reason,
        "verdict": "inconclusive",
        "notes": ("one set of samples has no spread to judge by",),
    }
    if own:
        error = reported.error if reported.error is not None else (own if least else spread)  # of one more set
        compared = Difference(estimate - reported.value, math.hypot(own, error), len(scores) - 1)
        changes |= {
            "verdict": equivalent(compared, margin).decide(),
            "difference_90": compared.interval(1 - 2 * ALPHA),
            "difference_95": compared.interval(),
            "notes": (),
        }
    return found.model_copy(update=changes)


def _incomparable(record: Record, metric: str, scores: Sequence[float], reported: Reported) -> tuple[str, ...]:
    """Return why a run's score does not compare with a reported figure."""
    config = record.config
    reasons = []
    if reported.cannot:
        reasons.append(f"the reported figure is of {reported.sampler}: {reported.cannot}")
    elif config.nfe != reported.nfe or any(
        {**config.model_dump(), **config.options}.get(name) != value for name, value in reported.settings.items()
    ):
        reasons.append(f"the reported figure is of {reported.sampler}, these samples are not")
    if metric != reported.metric:
        reasons.append(f"the reported figure is a {reported.metric}, this is a {metric}")
    if reported.protocol is None:
        reasons.append("how the reported figure was scored is not known")
    elif config.protocol != reported.protocol:
        reasons.append(f"scored under protocol {config.protocol}, the reported figure under {reported.protocol}")
    if config.samples != reported.samples:
        reasons.append(
            f"of {config.samples:,} samples, the reported figure of {reported.samples:,}: a Fréchet distance of fewer "
            "samples is larger, and no two numbers of samples compare"
        )
    if reported.dataset not in (None, config.dataset):
        reasons.append(f"scored against {config.dataset}, the reported figure against {reported.dataset}")
    if reported.aggregation == "minimum" and reported.runs is None:
        reasons.append("the reported figure is a minimum over a number of sets that its source does not say")
    elif reported.runs is not None and len(scores) < reported.runs:
        reasons.append(f"the reported figure is the least of {reported.runs} sets, of ours there are {len(scores)}")
    known = {reason for reason in record.deviations if "samples instead of" in reason}
    return (*reasons, *(reason for reason in record.deviations if reason not in known))
