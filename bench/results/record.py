"""The immutable record of one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tractbench.config.fields import RunConfig


class Frozen(BaseModel):
    """A frozen value without unknown fields; a sample that is not finite is kept as such."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Metric(Frozen):
    """A score over sampling seeds: ``std`` is the sample standard deviation (n - 1), None for a single seed."""

    mean: float
    std: float | None
    per_seed: tuple[float, ...]

    @classmethod
    def of(cls, per_seed: Sequence[float]) -> Metric:
        """Summarise one score for each sampling seed."""
        std = statistics.stdev(per_seed) if len(per_seed) > 1 else None
        return cls(mean=statistics.fmean(per_seed), std=std, per_seed=tuple(per_seed))


class Training(Frozen):
    """What was spent on the student; all zero for a method that trains nothing.

    Attributes:
        nonfinite_gradients: entries of gradients that were replaced.
        reused_from: folder of the run that trained the student, if it was another one.
    """

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    nonfinite_gradients: int = 0
    reused_from: str | None = None


class DistillationError(Frozen):
    """Mean squared L2 distance to the teacher's full sampler from the same 512 noises, after a phase.

    The first phase is 1; ``error`` belongs to the student of ``end`` steps. For a method that trains nothing, phase 0
    is the teacher in the run's steps.
    """

    phase: int
    start: int
    end: int
    error: float


class Seconds(Frozen):
    """Wall time of this run's parts; ``training`` of a resumed run includes earlier sessions."""

    training: float = 0.0
    sampling_and_scoring: float = 0.0
    total: float = 0.0


class Record(Frozen):
    """Everything there is to know of one run, done or failed.

    Attributes:
        status: ``failed`` runs have a reason and no metrics.
        metrics: scores by name.
        floors: what held-out real images score.
        distillation_errors: distance to the teacher's full sampler after each phase.
        nfe_spent: denoiser evaluations an image really took, counted.
        parameters: parameters of the sampled network.
        results_version: version of the code's results that made it.
        hashes: sha256 of the teacher, the data, the reference statistics, the sampled weights and plugins' sources.
        environment: versions, hardware, code state.
        basis: what the scores were made against: weights, whether they are the published ones, reference statistics.
        deviations: in what the run differs from its protocol; with any, it stands in no table of published figures.
        command: the command line.
        folder: the run's folder inside the store.
    """

    version: Literal[1] = 1
    identity: str
    student: str
    results_version: int
    status: Literal["done", "failed"]
    reason: str | None = None
    created: str
    config: RunConfig
    metrics: dict[str, Metric] = {}
    floors: dict[str, float] = {}
    distillation_errors: tuple[DistillationError, ...] = ()
    nfe_spent: int | None = None
    parameters: int | None = None
    training: Training = Training()
    seconds: Seconds = Seconds()
    hashes: dict[str, str | None] = {}
    environment: dict[str, Any] = {}
    basis: dict[str, Any] = {}
    deviations: tuple[str, ...] = ()
    command: str = ""
    folder: str
