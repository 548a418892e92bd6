"""Workloads: how runs on a data set are set up, as data from a TOML file in ``tractbench/workloads`` or a plugin's own.

A tier's settings have the names of the command line's flags (``mu_s`` for ``--mu-s``) and are written as there, such as
``budget = "96M"``; a table under a process's name holds what differs for it. ``like`` starts from another file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from tractbench.diffusion.processes import load_process
from tractbench.errors import ConfigError, nearest_name
from tractbench.nets.architectures import Architecture, architecture
from tractbench.nets.build import Argument

Found = TypeVar("Found")
Tables = TypeVar("Tables", bound=BaseModel)

WORKLOADS = Path(__file__).parent.parent / "workloads"
"""Folder of the built-in data sets' workloads."""


def _plain(value: object, parse: ValidatorFunctionWrapHandler) -> object:
    """Say in one sentence what a union of types would say in one for each."""
    try:
        return parse(value)
    except ValidationError as error:
        raise ValueError("it is no number, text, truth value or list of whole numbers; write one of them") from error


Value = Annotated[Argument, WrapValidator(_plain)]
Settings = Mapping[str, Value]
"""Run settings by name, as a user may write them; they are parsed with the rest of a run's."""

TierTable = dict[str, Annotated[Argument | dict[str, Value], WrapValidator(_plain)]]
"""A tier's settings, and under the names of processes what differs for them."""


class Table(BaseModel):
    """A table of a workload: no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NetworkTable(Table):
    """A network: a named architecture, or a constructor's name, and further arguments.

    Attributes:
        architecture: name of an architecture; "" where ``network`` is given.
        network: name of a network; "" where ``architecture`` is given.
        arguments: its constructor's, beside and before those of the architecture.
    """

    architecture: str = ""
    network: str = ""
    arguments: dict[str, Value] = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> NetworkTable:
        if bool(self.architecture) == bool(self.network):
            raise ValueError("give architecture = NAME, or network = NAME with all its arguments")
        if self.architecture:
            _known(architecture, self.architecture)
        return self

    def built(self) -> Architecture:
        """Return network and arguments, without those that the data set fills in."""
        named = architecture(self.architecture) if self.architecture else Architecture(network=self.network,
                                                                                       arguments={})  # fmt: skip
        return Architecture(network=named.network, arguments={**named.arguments, **self.arguments})


class DenoiserTable(NetworkTable):
    """A denoiser's network; ``parameterisation`` says how its output becomes x0."""

    parameterisation: str


class TeacherRecipe(Table):
    """How a teacher for a data set is trained from scratch.

    Attributes:
        network: name of one of the data set's networks.
        weight_cap: the x0 loss is weighted by SNR limited to [1, weight_cap], in units of the process's data scale.
        steps: optimiser steps.
        batch: images a step.
        lr: peak learning rate, warmed up over the first tenth at most 500 steps, then a half cosine to 0.
        ema: momentum of the bias-corrected moving average that is kept.
        loss: ``capped_snr`` at uniform times, or ``edm``: Karras et al.'s weight at log-normal noise levels.
    """

    network: str
    weight_cap: float = Field(gt=0)
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)
    ema: float = Field(ge=0, lt=1)
    loss: Literal["capped_snr", "edm"] = "capped_snr"


class ClassifierRecipe(NetworkTable):
    """How the classifier is trained whose penultimate layer is a data set's feature space.

    Attributes:
        steps: optimiser steps.
        batch: images a step.
    """

    steps: int = Field(ge=1)
    batch: int = Field(ge=1)


class Workload(Table):
    """How runs on a data set are set up.

    Attributes:
        source: the file it was read from, for messages.
        threads: CPU threads that its networks run on, None for all: threads that share too little work only wait for
            each other, and results do not then depend on the number of cores.
        features: name of the feature extractor for the Frechet feature distance; "" for none.
        protocol: name of the default evaluation protocol.
        processes: processes that it can have a teacher for, the default first.
        teachers: the default teacher card for each process, or ``exact`` where the teacher is a closed form.
        tiers: run settings for each tier, the default tier first.
        networks: networks that a student or teacher can have: by name, the usual one first, then by process.
        recipes: how ``tractbench teacher train`` trains a teacher: by tier (``full``, or the evidence tier that the
            teacher is for), then by process.
        classifier: how ``tractbench features train`` trains the feature extractor; None where there is no recipe.
    """

    source: str = "workload"
    threads: int | None = Field(None, ge=1)
    features: str = ""
    protocol: str = "raw"
    processes: tuple[str, ...] = Field(min_length=1)
    teachers: dict[str, str] = {}
    tiers: dict[str, TierTable] = Field(min_length=1)
    networks: dict[str, dict[str, DenoiserTable]] = {}
    recipes: dict[str, dict[str, TeacherRecipe]] = {}
    classifier: ClassifierRecipe | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Workload:
        for process in self.processes:
            _known(load_process, process)
        for process in self.teachers:
            if process not in self.processes:
                raise ValueError(f"teachers.{process}: not one of processes{nearest_name(process, self.processes)}")
        for name, tier in self.tiers.items():
            for process in (key for key, value in tier.items() if isinstance(value, dict)):
                if process not in self.processes:
                    near = nearest_name(process, self.processes)
                    raise ValueError(f"tiers.{name}.{process}: a table in a tier is for one of processes{near}")
        for name, network in self.networks.items():
            for process, table in network.items():
                fitting = _known(load_process, process).parameterisations
                if table.parameterisation not in fitting:
                    raise ValueError(
                        f"networks.{name}.{process}.parameterisation {table.parameterisation!r}: not one of process "
                        f"'{process}'{nearest_name(table.parameterisation, fitting)}"
                    )
        for tier_name, recipes in self.recipes.items():
            for process, recipe in recipes.items():
                usable = [name for name, network in self.networks.items() if process in network]
                if recipe.network not in usable:
                    raise ValueError(
                        f"recipes.{tier_name}.{process}.network {recipe.network!r}: not one of the networks for "
                        f"process '{process}'{nearest_name(recipe.network, usable)}"
                    )
        return self

    def settings(self, tier: str, process: str) -> dict[str, Value]:
        """Return the settings of one of the tiers for a process."""
        common = {key: value for key, value in self.tiers[tier].items() if not isinstance(value, dict)}
        own = self.tiers[tier].get(process, {})
        return {**common, **(own if isinstance(own, dict) else {})}


@cache
def load_workload(path: Path) -> Workload:
    """Read a workload from its TOML file; a file is read once.

    Raises:
        ConfigError: it cannot be read or says something wrong; the message names file, key, value and remedy.
    """
    written = read_toml(path)
    if "source" in written:
        raise ConfigError(f"{path}: source: no such key; leave it out")
    return parsed(Workload, {**written, "source": str(path)}, path)


def parsed(kind: type[Tables], written: Mapping[str, object], path: Path) -> Tables:
    """Return tables of a file as what they should be; a ConfigError names file, key, value and remedy."""
    try:
        return kind.model_validate(written)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_complaint(kind, error)}") from error


def read_toml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, object]:
    """Return what a TOML file says, after the file that its ``like`` names; a ConfigError says what is wrong."""
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read workload {path}: {error.strerror}; give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"workload {path} is not TOML: {error}; mend it") from error
    like = written.pop("like", None)
    if like is None:
        return written
    if not isinstance(like, str) or path.parent / like in (path, *seen):
        raise ConfigError(f"{path}: like {like!r}: name another file of the same folder")
    return {**read_toml(path.parent / like, (path, *seen)), **written}


def _complaint(kind: type[BaseModel], error: ValidationError) -> str:
    """Say in one line which key is wrong, its value and what to do."""
    # a misspelt key is also a missing one: say the former
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    key, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        kinds: dict[object, type[BaseModel]] = {"networks": DenoiserTable, "recipes": TeacherRecipe,
                                                "classifier": ClassifierRecipe}  # fmt: skip
        fields = kinds.get(first["loc"][0], kind) if len(first["loc"]) > 1 else kind
        return f"{key}: no such key{nearest_name(str(first['loc'][-1]), fields.model_fields)}"
    if first["type"] == "missing":
        return f"{key} is missing; give it"
    shown = f" {first['input']!r}" if not isinstance(first["input"], Mapping) else ""
    return f"{key}{shown}: {message[0].lower()}{message[1:]}" if key else message


def _known(find: Callable[[str], Found], name: str) -> Found:
    """Find something by its name, inside a validator."""
    try:
        return find(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error
