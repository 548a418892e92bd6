"""RunConfig: everything that decides a run's numbers, validated; its canonical form is the run's identity."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tractbench.datasets.base import Dataset
from tractbench.diffusion.solvers import solver_steps
from tractbench.errors import ConfigError, nearest_name
from tractbench.method import Method, Schedule
from tractbench.registry import load_dataset, load_method, plugin_source_hash

Model = TypeVar("Model", bound=BaseModel)

RESULTS_VERSION = 2
"""Raised by hand whenever a change alters results; part of every student's identity."""

GRID_STEPS = {"vp": 1024, "ve": 40}
"""Steps of the teachers' time grid: T of the VP process, EDM's number of noise levels for VE."""

MAX_BUDGET = 1 << 34
MAX_STEPS = 1 << 20


def parse_budget(value: object) -> object:
    """Parse a number of training images: ``512K`` is 512 * 2^10, ``96M`` is 96 * 2^20; anything else passes through."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+)\s*([KkMm]?)\s*", value)
    if not match:
        raise ValueError("a budget is a whole number of images with an optional K (2^10) or M (2^20); try 512K")
    return int(match[1]) << {"": 0, "K": 10, "M": 20}[match[2].upper()]


def parse_integers(value: object) -> object:
    """Parse ``1024,32,1`` or a range ``0-4`` into a tuple of integers; anything else passes through."""
    if isinstance(value, int):
        return (value,)
    if not isinstance(value, str):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d{1,12})\s*(?:-\s*(\d{1,12})\s*)?", part)
        if not match or (match[2] and not 0 <= int(match[2]) - int(match[1]) < 10_000):
            raise ValueError("give whole numbers separated by commas, such as 1024,32,1, or a range such as 0-4")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(numbers)


def format_budget(images: int) -> str:
    """Write a number of images with the suffix that :func:`parse_budget` reads."""
    for shift, suffix in ((20, "M"), (10, "K")):
        if images and images % (1 << shift) == 0:
            return f"{images >> shift}{suffix}"
    return str(images)


Integers = Annotated[tuple[int, ...], BeforeValidator(parse_integers)]
Budget = Annotated[int, BeforeValidator(parse_budget)]


class RunConfig(BaseModel):
    """One run as a frozen value; see each field's description and unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str = Field(description="name of the method")
    dataset: str = Field(description="name of the data set")
    tier: str = Field(description="evidence tier: which of the data set's presets the run starts from")
    process: str = Field("vp", description="diffusion process of the teacher")
    teacher: str = Field(description="teacher card: a shipped name or the path of a card")
    grid_steps: int = Field(
        ge=1, le=MAX_STEPS, description="T of the VP process (at least 1024), number of noise levels of VE (40)"
    )
    nfe: int = Field(1, ge=1, le=MAX_STEPS, description="network evaluations the sampler may spend on an image")
    schedule: Integers = Field((), description="sampler steps before, between and after the phases")
    budget: Budget = Field(0, ge=0, le=MAX_BUDGET, description="training images over all phases; K = 2^10, M = 2^20")
    batch: int = Field(256, ge=1, le=1 << 20, description="images of one optimiser step, over all processes")
    lr: float = Field(2e-4, gt=0, le=1, description="learning rate of Adam")
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
        description="student of a later phase: continue, or copy the new teacher and reset Adam and self-teacher",
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
            if self.schedule[-1] != self.nfe:
                raise ValueError(
                    f"schedule {_join(self.schedule)}: it ends at {self.schedule[-1]} steps but nfe is {self.nfe}; "
                    "end it there or leave one of the two out"
                )
            phases = len(self.schedule) - 1
            if self.budget // (self.batch * phases) == 0:
                raise ValueError(
                    f"budget {self.budget}: less than one step of batch {self.batch} in each of {phases} phases; "
                    f"give at least {self.batch * phases}"
                )
            if self.student and not any(before == after for before, after in pairwise(self.schedule)):
                first, *rest = self.schedule
                raise ValueError(
                    f"student {self.student!r}: schedule {_join(self.schedule)} has no repeated entry to move into it; "
                    f"try {_join((first, first, *rest))}"
                )
        return self


SAMPLING_FIELDS = frozenset({"nfe", "sampling_seeds", "samples", "chunk", "protocol"})
"""What may change without training another student (a trained student's steps stand in its schedule)."""

UNTRAINED_FIELDS = SAMPLING_FIELDS | {
    "method",
    "dataset",
    "tier",
    "process",
    "teacher",
    "grid_steps",
    "clip_sample",
    "options",
}
"""What a method that trains nothing depends on."""


def nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of ``number`` nearest to ``wanted`` in ratio."""
    divisors = (d for d in range(1, number + 1) if number % d == 0)
    return min(divisors, key=lambda d: max(d / wanted, wanted / d))


def check_schedule(schedule: Schedule, grid_steps: int) -> None:
    """Raise ValueError unless every entry divides the one before it and the first divides the grid."""
    if len(schedule) < 2:
        end = min(nearest_divisor(grid_steps, max(1, e)) for e in (*schedule, grid_steps))
        raise ValueError(
            f"schedule {_join(schedule)}: it needs a start and an end; try {grid_steps},{min(end, grid_steps // 2)}"
        )
    chain = (grid_steps, *schedule)
    for before, entry in pairwise(chain):
        if before % entry:
            mended: list[int] = [grid_steps]
            for wanted in schedule:
                mended.append(nearest_divisor(mended[-1], wanted))
            raise ValueError(
                f"schedule {_join(schedule)}: {entry} does not divide {before}; try {_join(tuple(mended[1:]))}"
            )


def _join(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def read_config_file(path: Path) -> dict[str, object]:
    """Read a TOML file of run settings, the same names as the flags (``mu_s`` for ``--mu-s``)."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not TOML: {error}") from error
    return {key.replace("-", "_"): value for key, value in values.items()}


def resolve(settings: Mapping[str, object]) -> tuple[RunConfig, Method, Dataset]:
    """Resolve the user's settings into one run.

    Precedence: the settings given, then the method's defaults, then the data set's preset for the tier, then the
    field's default.

    Args:
        settings: run settings and method options by name; None means not given.

    Returns:
        The run's configuration, the method with its options, and the data set.

    Raises:
        ConfigError: an unknown name (with the nearest known one) or an impossible value (with a remedy).
    """
    given = {key: value for key, value in settings.items() if value is not None}
    for required in ("method", "dataset"):
        if required not in given:
            raise ConfigError(f"no {required} given; add --{required} NAME (see 'tractbench list {required}s')")
    method_class = load_method(str(given["method"]))
    dataset = load_dataset(str(given["dataset"]))
    process = str(given.get("process") or _common_process(method_class, dataset))
    tier, preset = dataset.preset(None if given.get("tier") is None else str(given["tier"]), process)
    if process not in method_class.processes:
        raise ConfigError(
            f"method '{method_class.name}' has no process {process!r}" + nearest_name(process, method_class.processes)
        )
    if process not in dataset.teachers and "teacher" not in given:
        raise ConfigError(
            f"data set '{dataset.name}' ships no '{process}' teacher; train one with 'tractbench teacher "
            f"train --dataset {dataset.name} --process {process}' and name its card with --teacher"
        )

    known = (set(RunConfig.model_fields) | set(method_class.model_fields)) - {"options"}
    values: dict[str, object] = {
        **{key: value for key, value in preset.items() if key in known},
        **method_class.defaults,
        **given,
        "method": method_class.name,
        "dataset": dataset.name,
        "tier": tier,
        "process": process,
    }
    values.setdefault("teacher", dataset.teachers.get(process))
    values.setdefault("protocol", dataset.protocol)
    if values["teacher"] == "exact" and dataset.teachers.get(process) != "exact":
        raise ConfigError(f"teacher 'exact': data set '{dataset.name}' has none in closed form; leave --teacher out")
    own = {key: values.pop(key) for key in list(values) if key in method_class.model_fields}
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting {key!r} of method '{method_class.name}'{nearest_name(key, known)}")
    method = _validated(method_class, own)
    values["options"] = method.model_dump(mode="json")
    _resolve_schedule(values, method, given, dataset)
    config = _validated(RunConfig, values)
    method.phases(config.schedule)
    if config.student is not None:
        dataset.network(config.student, process)
    if method.sampler() == "heun" and process != "ve":
        raise ConfigError("solver 'heun' is for VE teachers; add --process ve, or leave it out")
    for key in ("clip_sample", "clip_target"):
        if not dataset.clips and (config.model_dump() | config.options).get(key):
            raise ConfigError(f"{key} true: data set '{dataset.name}' has no bounds to clip to; leave it out")
    return config, method, dataset


def _common_process(method: type[Method], dataset: Dataset) -> str:
    for process in method.processes:
        if process in dataset.processes:
            return process
    raise ConfigError(
        f"method '{method.name}' needs a {' or '.join(method.processes)} teacher; data set '{dataset.name}' has "
        f"{' and '.join(dataset.processes)}"
    )


def _resolve_schedule(values: dict[str, object], method: Method, given: Mapping[str, object], dataset: Dataset) -> None:
    """Fill ``schedule`` from ``nfe`` or ``nfe`` from ``schedule``, and the grid from both.

    Untrained methods have no schedule and no budget. A student of an exact teacher has no weights to start from, so
    its schedule starts with a repeated entry that moves the teacher into the data set's usual network.
    """
    exact = values.get("teacher") == "exact" and method.trains
    entries: Schedule = ()
    if not method.trains:
        for key in given:
            if key in RunConfig.model_fields and key not in UNTRAINED_FIELDS:
                raise ConfigError(f"{key} {given[key]!r}: method '{method.name}' trains nothing; leave it out")
        values["budget"] = 0
    elif values.get("schedule") is not None:
        entries = _entries(values["schedule"])
        values.setdefault("nfe", entries[-1])
    else:
        nfe = values.get("nfe", 1)
        usable = isinstance(nfe, (int, str)) and str(nfe).isdecimal() and 1 <= int(nfe) <= MAX_STEPS
        entries = method.default_schedule(int(str(nfe)) if usable else 1)
        entries = (entries[0], *entries) if exact else entries
    if "mu_s" in given and method.trains and not method.self_teacher:
        raise ConfigError(f"mu_s {given['mu_s']!r}: method '{method.name}' has no self-teacher; leave it out")
    values["schedule"] = entries
    if exact:
        values.setdefault("student", next(iter(dataset.networks)))
        if len(entries) > 1 and entries[0] != entries[1]:
            raise ConfigError(
                f"schedule {_join(entries)}: the exact teacher of '{dataset.name}' has no weights to start from; "
                f"repeat the first entry: {_join((entries[0], *entries))}"
            )
    usual = GRID_STEPS[str(values["process"])]
    first = entries[0] if len(entries) > 1 else usual
    grid = values.setdefault(
        "grid_steps", max(usual, first) if values["process"] == "vp" else usual if usual % first == 0 else first
    )
    if values["process"] == "vp" and isinstance(grid, int) and grid < usual:
        raise ConfigError(f"grid_steps {grid}: the VP process has at least {usual}; leave it out")
    if entries and isinstance(grid, int) and 0 < grid <= MAX_STEPS:
        try:
            check_schedule(entries, grid)
        except ValueError as error:
            if "schedule" in given or "grid_steps" in given:
                raise ConfigError(str(error)) from error
            raise ConfigError(_unreachable(method, values.get("nfe", 1), grid)) from error


def _unreachable(method: Method, nfe: object, grid: int) -> str:
    """Say that no default schedule ends at so many steps, and which one near it does."""
    reachable = []
    for steps in (d for d in range(1, grid) if grid % d == 0):
        with contextlib.suppress(ValueError):
            check_schedule(method.default_schedule(steps), grid)
            reachable.append(steps)
    wanted = int(str(nfe)) if str(nfe).isdecimal() else 1
    nearest = min(reachable, key=lambda d: max(d / wanted, wanted / d))
    return f"nfe {nfe}: no schedule of {method.name} from {grid} steps ends there; try {nearest}"


def _entries(value: object) -> Schedule:
    """Return a given schedule as whole numbers."""
    try:
        parsed = parse_integers(value)
    except ValueError as error:
        raise ConfigError(f"schedule {value!r}: {error}") from error
    if not isinstance(parsed, (tuple, list)) or not parsed or not all(type(entry) is int for entry in parsed):
        raise ConfigError(f"schedule {value!r}: give whole numbers separated by commas, such as 1024,32,1")
    if not 1 <= min(parsed) <= max(parsed) <= MAX_STEPS:
        raise ConfigError(f"schedule {_join(tuple(parsed))}: every entry is from 1 to {MAX_STEPS}; try 1024,32,1")
    return tuple(parsed)


def _validated(model: type[Model], values: Mapping[str, object]) -> Model:
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(_one_line(model, error)) from error


def _one_line(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    field = model.model_fields.get(name)
    if first["type"] == "literal_error" and field is not None:
        message = "unknown value" + nearest_name(str(first["input"]), map(str, get_args(field.annotation)))
    hint = f" ({field.description})" if field is not None and field.description else ""
    return f"{name} {first['input']!r}: {message[0].lower()}{message[1:]}{hint}"


def canonical(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def student_id(config: RunConfig, method: Method, teacher_hash: str, dataset: Dataset) -> str:
    """Return the sha256 of all that decides a student's weights.

    Args:
        config: the run.
        method: its method; one from outside this distribution counts with its source.
        teacher_hash: sha256 of the teacher's weights and card.
        dataset: its data set; likewise.
    """
    training: dict[str, object] = {"method": config.method, "process": config.process}
    if method.trains:
        fields = set(RunConfig.model_fields) - SAMPLING_FIELDS - {"teacher"}
        training = config.model_dump(mode="json", include=fields) | {"data": dataset.fingerprint}
    sources = [plugin_source_hash(type(method)), plugin_source_hash(type(dataset))]
    parts = {"training": training, "teacher": teacher_hash, "results": RESULTS_VERSION, "sources": sources}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def identity(student: str, config: RunConfig, reference_hash: str) -> str:
    """Return the sha256 of a student with its sampling, its protocol and the reference it is scored against."""
    sampling = config.model_dump(mode="json", include=set(UNTRAINED_FIELDS) - {"method", "process", "teacher"})
    parts = {"student": student, "sampling": sampling, "reference": reference_hash}
    return hashlib.sha256(canonical(parts).encode()).hexdigest()
