"""From what a user gives to one run: flags over file over method over workload over the field's default."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tractbench.config.fields import MAX_STEPS, UNTRAINED_FIELDS, RunConfig, check_schedule, join
from tractbench.config.numbers import parse_integers
from tractbench.datasets.base import Dataset
from tractbench.diffusion.processes import load_process
from tractbench.errors import ConfigError, nearest_name
from tractbench.method import Method, Schedule
from tractbench.registry import load_dataset, load_method

Model = TypeVar("Model", bound=BaseModel)

CLIPPING = ("clip_sample", "clip_target")
"""Settings that data without bounds cannot have; they are then off unless given."""

TIER_FIELDS = frozenset(RunConfig.model_fields) - {"method", "dataset", "tier", "process", "options"}
"""What a data set's tier may set."""


def read_config_file(path: Path) -> dict[str, object]:
    """Read a TOML file of run settings, the same names as the flags (``mu_s`` for ``--mu-s``)."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
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
    workload = dataset.workload
    if process not in workload.teachers and "teacher" not in given and "teacher" not in preset:
        raise ConfigError(
            f"data set '{dataset.name}' ships no '{process}' teacher; train one with 'tractbench teacher "
            f"train --dataset {dataset.name} --process {process}' and name its card with --teacher"
        )

    for key in preset:
        if key not in TIER_FIELDS:
            raise ConfigError(
                f"{workload.source}: tiers.{tier}: unknown setting {key!r}{nearest_name(key, TIER_FIELDS)}"
            )
    known = (set(RunConfig.model_fields) | set(method_class.model_fields)) - {"options"}
    values: dict[str, object] = {
        **{key: False for key in CLIPPING if key in known and not dataset.clips},
        **preset,
        **method_class.defaults,
        **given,
        "method": method_class.name,
        "dataset": dataset.name,
        "tier": tier,
        "process": process,
    }
    values.setdefault("teacher", workload.teachers.get(process))
    values.setdefault("protocol", workload.protocol)
    if values["teacher"] == "exact" and workload.teachers.get(process) != "exact":
        raise ConfigError(f"teacher 'exact': data set '{dataset.name}' has none in closed form; leave --teacher out")
    own = {key: values.pop(key) for key in list(values) if key in method_class.model_fields}
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting {key!r} of method '{method_class.name}'{nearest_name(key, known)}")
    method = _validated(method_class, own)
    values["options"] = method.model_dump(mode="json")
    _resolve_schedule(values, method, given, dataset)
    written = set(preset) - set(method_class.defaults) - set(given)
    config = _validated(RunConfig, values, dict.fromkeys(written, f"{workload.source}: tiers.{tier}: "))
    method.phases(config.schedule)
    if config.student is not None:
        dataset.network(config.student, process)
    if config.schedule and config.schedule[-1] != config.nfe and not method.any_nfe:
        raise ConfigError(
            f"schedule {join(config.schedule)}: it ends at {config.schedule[-1]} steps but nfe is {config.nfe}; "
            "end it there or leave one of the two out"
        )
    solver = method.sampler(config.nfe, load_process(process, config.grid_steps)).solver
    if solver not in load_process(process).solvers:
        others = [other for other in method.processes if solver in load_process(other).solvers]
        raise ConfigError(
            f"solver {solver!r} is not for process '{process}'; leave it out"
            + f", or add --process {' or '.join(others)}" * bool(others)
        )
    if config.options.get("solver") == "heun" and config.nfe % 2 == 0:
        odd = config.nfe - 1, config.nfe + 1
        raise ConfigError(
            f"nfe {config.nfe}: heun would spend {odd[0]}, two in each step but the last; try {odd[0]} or {odd[1]}"
        )
    for key in CLIPPING:
        if not dataset.clips and (config.model_dump() | config.options).get(key):
            raise ConfigError(f"{key} true: data set '{dataset.name}' has no bounds to clip to; leave it out")
    return config, method, dataset


def _common_process(method: type[Method], dataset: Dataset) -> str:
    for process in method.processes:
        if process in dataset.workload.processes:
            return process
    raise ConfigError(
        f"method '{method.name}' needs a {' or '.join(method.processes)} teacher; data set '{dataset.name}' has "
        f"{' and '.join(dataset.workload.processes)}"
    )


def _resolve_schedule(values: dict[str, object], method: Method, given: Mapping[str, object], dataset: Dataset) -> None:
    """Fill ``schedule`` from ``nfe`` or ``nfe`` from ``schedule``, and the grid from both.

    A method's own schedule is cut to a grid below its start. A schedule that is given moves the grid to its start,
    where that does not divide the grid, unless a grid is given too.

    Untrained methods have no schedule and no budget. A student of an exact teacher has no weights to start from, so
    its schedule starts with a repeated entry that moves the teacher into the data set's usual network.
    """
    exact = values.get("teacher") == "exact" and method.trains
    usual = values.setdefault("grid_steps", load_process(str(values["process"])).default_steps)
    grid = int(usual) if isinstance(usual, (int, str)) and _is_steps(usual) else None  # else refused with the others
    entries: Schedule = ()
    if not method.trains:
        for key in given:
            if key in RunConfig.model_fields and key not in UNTRAINED_FIELDS:
                raise ConfigError(f"{key} {given[key]!r}: method '{method.name}' trains nothing; leave it out")
        values["budget"] = 0
    elif values.get("schedule") is not None:
        entries = _entries(values["schedule"])
        values.setdefault("nfe", entries[-1])
        if grid and "grid_steps" not in given and len(entries) > 1 and grid % entries[0]:
            values["grid_steps"] = grid = entries[0]
    else:
        nfe = values.get("nfe", 1)
        entries = _default_schedule(method, int(nfe) if isinstance(nfe, (int, str)) and _is_steps(nfe) else 1, grid)
        entries = (entries[0], *entries) if exact else entries
    if "mu_s" in given and method.trains and not method.self_teacher:
        raise ConfigError(f"mu_s {given['mu_s']!r}: method '{method.name}' has no self-teacher; leave it out")
    values["schedule"] = entries
    if exact:
        networks = dataset.workload.networks
        fitting = (name for name, network in networks.items() if str(values["process"]) in network)
        values.setdefault("student", next(fitting, next(iter(networks), None)))
        if len(entries) > 1 and entries[0] != entries[1]:
            raise ConfigError(
                f"schedule {join(entries)}: the exact teacher of '{dataset.name}' has no weights to start from; "
                f"repeat the first entry: {join((entries[0], *entries))}"
            )
    if entries and grid:
        try:
            check_schedule(entries, grid)
        except ValueError as error:
            start = f"grid_steps {grid}: " * ("grid_steps" in given)
            if "schedule" in given or (start and len(entries) > 1):
                raise ConfigError(f"{start}{error}") from error
            raise ConfigError(start + _unreachable(method, values.get("nfe", 1), grid)) from error


def _is_steps(value: int | str) -> bool:
    return str(value).isdecimal() and 1 <= int(value) <= MAX_STEPS


def _default_schedule(method: Method, nfe: int, grid: int | None) -> Schedule:
    """Return a method's schedule that ends at ``nfe``, cut to a grid: entries above it become the grid itself."""
    entries = method.default_schedule(nfe)
    if grid is None or not entries or max(entries) <= grid:
        return entries
    kept = tuple(entry for entry in entries if entry <= grid)
    return kept if kept[:1] == (grid,) else (grid, *kept)


def _unreachable(method: Method, nfe: object, grid: int) -> str:
    """Say that no default schedule ends at so many steps, and which one near it does."""
    reachable = []
    for steps in (d for d in range(1, grid) if grid % d == 0):
        with contextlib.suppress(ValueError):
            check_schedule(_default_schedule(method, steps, grid), grid)
            reachable.append(steps)
    if not reachable:
        return f"no schedule of {method.name} starts at {grid}; leave grid_steps out"
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
        raise ConfigError(f"schedule {join(tuple(parsed))}: every entry is from 1 to {MAX_STEPS}; try 1024,32,1")
    return tuple(parsed)


def _validated(model: type[Model], values: Mapping[str, object], origins: Mapping[str, str] | None = None) -> Model:
    """Return the model; ``origins`` says of values that the user did not give where they stand."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        location = error.errors()[0]["loc"]
        origin = (origins or {}).get(str(location[0]), "") if location else ""
        raise ConfigError(origin + _one_line(model, error)) from error


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
