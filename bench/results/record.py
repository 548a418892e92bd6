"""The immutable record of one run, in a schema of its own that outlives the code that wrote it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, field_serializer

from tractbench.config.fields import RunConfig

VERSION: Final = 2
"""Of the records written now; :mod:`tractbench.results.migrate` reads older ones."""

Failure = Literal["diverged", "out of memory", "lost the device", "error"]


class Kept(BaseModel):
    """A frozen value that keeps fields it does not know, and samples that are not finite, as they were written."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")


class Metric(Kept):
    """A score over sampling seeds: ``std`` is the sample standard deviation (n - 1), None for a single seed."""

    mean: float
    std: float | None
    per_seed: tuple[float, ...]

    @classmethod
    def of(cls, per_seed: Sequence[float]) -> Metric:
        """Summarise one score for each sampling seed."""
        std = statistics.stdev(per_seed) if len(per_seed) > 1 else None
        return cls(mean=statistics.fmean(per_seed), std=std, per_seed=tuple(per_seed))


class RecordedConfig(Kept):
    """A run's configuration as it was written: nothing is checked, nothing is lost, what is missing has a default.

    A default is the one that the field was introduced with, so that a record from before it means what it meant then.
    ``model_dump`` fills the defaults in; a record is written without them.
    """

    method: str
    dataset: str
    tier: str
    process: str = "vp"
    teacher: str = ""
    grid_steps: int = 0
    nfe: int = 1
    schedule: tuple[int, ...] = ()
    budget: int = 0
    batch: int = 256
    optimiser: str = "adam"
    lr: float = 2e-4
    lr_schedule: str = "constant"
    warmup: int = 0
    gradients: str = "clip_norm"
    clip_norm: float = 1.0
    student: str | None = None
    mu_s: float = 0.5
    mu_i: float | None = None
    ema_residual: float = 1e-3
    ema_reset: str = "none"
    phase_start: str = "continue"
    precision: str = "fp32"
    options: dict[str, object] = {}
    seed: int = 0
    sampling_seeds: tuple[int, ...] = ()
    samples: int = 0
    chunk: int = 500
    clip_sample: bool = True
    protocol: str = "raw"

    @classmethod
    def of(cls, config: RunConfig) -> RecordedConfig:
        """Return a run's configuration as its record holds it."""
        return cls.model_validate(config.model_dump(mode="json"))

    def as_written(self) -> dict[str, object]:
        """Return the fields that were written, and no others."""
        return self.model_dump(exclude_unset=True)


class Training(Kept):
    """What was spent on the student; all zero for a method that trains nothing.

    Attributes:
        nonfinite_gradients: entries of gradients that were replaced.
        reused_from: folder of the run that trained the student, if it was another one.
        environment: of the machine that trained the student, if it was for another run; empty otherwise.
    """

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    nonfinite_gradients: int = 0
    reused_from: str | None = None
    environment: dict[str, object] = {}


class DistillationError(Kept):
    """Mean squared L2 distance to the teacher's full sampler from the same 512 noises, after a phase.

    The first phase is 1; ``error`` belongs to the student of ``end`` steps. For a method that trains nothing, phase 0
    is the teacher in the run's steps.
    """

    phase: int
    start: int
    end: int
    error: float


class Seconds(Kept):
    """Wall time of this run's parts; ``training`` of a resumed run includes earlier sessions."""

    training: float = 0.0
    sampling_and_scoring: float = 0.0
    total: float = 0.0


class Record(Kept):
    """Everything there is to know of one run, however it ended.

    Attributes:
        status: a run that is not ``done`` has a reason and no metrics.
        failure: what kind of failure it was, None unless the status is ``failed``.
        metrics: scores by name.
        floors: what held-out real images score.
        distillation_errors: distance to the teacher's full sampler after each phase.
        nfe_spent: denoiser evaluations an image really took, counted.
        parameters: parameters of the sampled network.
        training_version: version of the code's training that made the student.
        scoring_version: version of the code's sampling and scoring that made the metrics.
        hashes: sha256 of the teacher, the data, the reference statistics, the sampled weights and plugins' sources.
        environment: versions, hardware, numerics, code state.
        basis: what the scores were made against: weights, whether they are the published ones, reference statistics.
        deviations: in what the run differs from its protocol; with any, it stands in no table of published figures.
        command: a command that makes the run.
        folder: the run's folder inside the store, with forward slashes.
    """

    version: Literal[2] = VERSION
    identity: str
    student: str
    training_version: int
    scoring_version: int
    status: Literal["done", "failed", "interrupted"]
    failure: Failure | None = None
    reason: str | None = None
    created: str
    config: RecordedConfig
    metrics: dict[str, Metric] = {}
    floors: dict[str, float] = {}
    distillation_errors: tuple[DistillationError, ...] = ()
    nfe_spent: int | None = None
    parameters: int | None = None
    training: Training = Training()
    seconds: Seconds = Seconds()
    hashes: dict[str, str | None] = {}
    environment: dict[str, object] = {}
    basis: dict[str, object] = {}
    deviations: tuple[str, ...] = ()
    command: str = ""
    folder: str

    @field_serializer("config")
    def _config_as_written(self, config: RecordedConfig) -> dict[str, object]:
        return config.as_written()


def counting(records: Sequence[Record]) -> list[Record]:
    """Return the record that counts for each identity, in their order: the last done one, else the last other one."""
    chosen: dict[str, Record] = {}
    for record in records:
        before = chosen.get(record.identity)
        if before is None or record.status == "done" or before.status != "done":
            chosen.pop(record.identity, None)
            chosen[record.identity] = record
    return list(chosen.values())
