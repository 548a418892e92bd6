"""From what a user gives to one run: flags over file over method over workload over the field's default."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tractbench.config.fields import GRID_STEPS, MAX_STEPS, UNTRAINED_FIELDS, RunConfig, check_schedule, join
from tractbench.config.numbers import parse_integers
from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError, nearest_name
from tractbench.method import Method, Schedule
from tractbench.registry import load_dataset, load_method

Model = TypeVar("Model", bound=BaseModel)


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
                f"schedule {join(entries)}: the exact teacher of '{dataset.name}' has no weights to start from; "
                f"repeat the first entry: {join((entries[0], *entries))}"
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
        raise ConfigError(f"schedule {join(tuple(parsed))}: every entry is from 1 to {MAX_STEPS}; try 1024,32,1")
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
