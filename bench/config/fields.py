"""RunConfig: everything that decides a run's numbers, validated."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tractbench.config.numbers import Budget, Integers
from tractbench.diffusion.processes import PROCESSES
from tractbench.diffusion.sampler import solver_steps
from tractbench.method import Schedule

MAX_BUDGET = 1 << 34
MAX_STEPS = 1 << 20


class RunConfig(BaseModel):
    """One run as a frozen value; see each field's description and unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str = Field(description="name of the method")
    dataset: str = Field(description="name of the data set")
    tier: str = Field(description="evidence tier: which of the data set's presets the run starts from")
    process: str = Field(next(iter(PROCESSES)), description="diffusion process of the teacher")
    teacher: str = Field(description="teacher card: a shipped name or the path of a card")
    grid_steps: int = Field(
        ge=1,
        le=MAX_STEPS,
        description="steps of the teacher's sampler: T of VP (1024), noise levels of VE (40)",
    )
    nfe: int = Field(1, ge=1, le=MAX_STEPS, description="network evaluations the sampler may spend on an image")
    schedule: Integers = Field((), description="sampler steps before, between and after the phases")
    budget: Budget = Field(0, ge=0, le=MAX_BUDGET, description="training images over all phases; K = 2^10, M = 2^20")
    batch: int = Field(256, ge=1, le=1 << 20, description="images of one optimiser step, over all processes")
    optimiser: Literal["adam", "radam"] = Field(
        "adam", description="adam, or radam: Adam whose first steps wait until it knows the gradients' variance"
    )
    lr: float = Field(2e-4, gt=0, le=1, description="learning rate of the optimiser")
    lr_schedule: Literal["constant", "linear"] = Field("constant", description="constant, or linear to 0 in each phase")
    warmup: Budget = Field(0, ge=0, le=MAX_BUDGET, description="images over which the learning rate grows from 0")
    gradients: Literal["clip_norm", "replace_nonfinite"] = Field(
        "clip_norm", description="limit the norm, or only replace entries: nan by 0, infinities by +-1e5"
    )
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    student: str | None = Field(
        None, description="the data set's network that the first repeated entry of the schedule moves the student into"
    )
    mu_s: float = Field(0.5, ge=0, lt=1, description="momentum of the self-teacher's moving average")
    mu_i: float | None = Field(
        None, ge=0, lt=1, description="momentum of the inference average; overrides ema_residual"
    )
    ema_residual: float = Field(
        1e-3, gt=0, lt=1, description="r in mu_i = r^(1/N), N the steps of a phase: the weight left to its start"
    )
    ema_reset: Literal["none", "phase"] = Field("none", description="restart the inference average at each phase")
    phase_start: Literal["continue", "from_teacher"] = Field(
        "continue",
        description="student of a later phase: continue, or copy the new teacher and reset optimiser and self-teacher",
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32", description="arithmetic of the networks' passes: fp32, tf32 in matrix products, or bf16 autocast"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the method's own options")
    seed: int = Field(0, ge=0, lt=1 << 62, description="training seed")
    sampling_seeds: Integers = Field((0, 1, 2), description="one set of samples and one score for each")
    samples: int = Field(5000, ge=2, le=1 << 24, description="images for each sampling seed")
    chunk: int = Field(500, ge=1, le=1 << 16, description="images the network is always run on together")
    clip_sample: bool = Field(True, description="clip x0 to [-1, 1] while sampling")
    protocol: str = Field("raw", description="evaluation protocol")

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values_for_numbers(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key, value in values.items():
            if isinstance(value, bool) and key != "clip_sample":
                raise ValueError(
                    f"{key} {str(value).lower()}: it is not a truth value; see 'tractbench list methods -v'"
                )
        return values

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        seeds = self.sampling_seeds
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"sampling_seeds {seeds}: give at least one seed, none twice, none below 0; try 0-2")
        solver = self.options.get("solver", "ddim")
        steps = solver_steps(solver, self.nfe)
        if not self.schedule and self.grid_steps % steps:
            nearest = nearest_divisor(self.grid_steps, steps)
            raise ValueError(
                f"nfe {self.nfe}: {steps} steps do not divide the grid of {self.grid_steps}; "
                f"try {2 * nearest - 1 if solver == 'heun' else nearest} or set grid_steps"
            )
        if self.schedule:
            check_schedule(self.schedule, self.grid_steps)
            phases = len(self.schedule) - 1
            if self.budget // (self.batch * phases) == 0:
                raise ValueError(
                    f"budget {self.budget}: less than one step of batch {self.batch} in each of {phases} phases; "
                    f"give at least {self.batch * phases}"
                )
            if self.student and not any(before == after for before, after in pairwise(self.schedule)):
                first, *rest = self.schedule
                raise ValueError(
                    f"student {self.student!r}: schedule {join(self.schedule)} has no repeated entry to move into it; "
                    f"try {join((first, first, *rest))}"
                )
        return self


UNTRAINED_FIELDS = frozenset(
    {
        *("method", "dataset", "tier", "process", "teacher", "grid_steps", "nfe", "sampling_seeds", "samples", "chunk"),
        *("clip_sample", "precision", "protocol", "options"),
    }
)
"""What a method that trains nothing depends on."""


def nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of ``number`` nearest to ``wanted`` in ratio."""
    divisors = (d for d in range(1, number + 1) if number % d == 0)
    return min(divisors, key=lambda d: max(d / wanted, wanted / d))


def check_schedule(schedule: Schedule, grid_steps: int) -> None:
    """Raise ValueError unless every entry divides the one before it and the first divides the grid."""
    if len(schedule) < 2:
        end = min(nearest_divisor(grid_steps, max(1, e)) for e in (*schedule, grid_steps))
        end = max(1, min(end, grid_steps // 2))
        raise ValueError(f"schedule {join(schedule)}: it needs a start and an end; try {grid_steps},{end}")
    chain = (grid_steps, *schedule)
    for before, entry in pairwise(chain):
        if before % entry:
            mended: list[int] = [grid_steps]
            for wanted in schedule:
                mended.append(nearest_divisor(mended[-1], wanted))
            raise ValueError(
                f"schedule {join(schedule)}: {entry} does not divide {before}; try {join(tuple(mended[1:]))}"
            )


def join(numbers: tuple[int, ...]) -> str:
    """Write whole numbers as a flag takes them: ``1024,32,1``."""
    return ",".join(map(str, numbers))
