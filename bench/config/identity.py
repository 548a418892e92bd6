"""What a run is called: hashes of all that decides its numbers, in normal form, and of nothing else.

Two rules keep names for ever. A field that has no effect under the others is left out, so that runs with equal bits
have one name. A field is also left out at the value it was introduced with, so that a field added later renames
nothing; its default may change if ``Field(new, json_schema_extra={"introduced": old})`` says what it was.

Everything here follows from the configuration, the cards and the data manifests: no weights are loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from tractbench.config.fields import RunConfig
from tractbench.datasets.base import Dataset
from tractbench.diffusion.processes import Process, load_process
from tractbench.io.canonical import canonical
from tractbench.method import Method
from tractbench.registry import distribution_hash

TRAINING_VERSION = 3
"""Raised by hand whenever a change alters students; part of every student's name."""

SCORING_VERSION = 3
"""Raised by hand whenever a change alters samples, features or scores of one student; part of every cell's name, and of
the keys of what is kept to score with."""

TRAINING_FIELDS = frozenset(
    {
        *("method", "schedule", "batch", "lr", "lr_schedule", "warmup", "gradients", "clip_norm", "student", "mu_s"),
        *("mu_i", "ema_residual", "ema_reset", "phase_start", "precision", "seed", "optimiser"),
    }
)
"""Fields that training reads as they are. It also reads ``budget``, as a number of steps, ``process`` and
``grid_steps`` as the process they make, ``teacher`` and ``dataset`` as the hashes of what they stand for, and
``options``."""

SAMPLING_FIELDS = frozenset({"tier", "nfe", "sampling_seeds", "samples", "chunk", "clip_sample", "precision"})
"""Fields that sampling and scoring read as they are; ``tier`` moves no number, but evidence of two tiers is never one.
``protocol`` is part of the reference's hash."""


def introduced(model: type[BaseModel], name: str) -> object:
    """Return the value that a field is left out at: its default, or what its default was when it was introduced."""
    field = model.model_fields[name]
    extra = field.json_schema_extra
    if isinstance(extra, Mapping) and "introduced" in extra:
        return extra["introduced"]
    return field.get_default(call_default_factory=True)


def stated(model: BaseModel, names: frozenset[str]) -> dict[str, object]:
    """Return the named fields as JSON values, without those at the value they were introduced with."""
    values = model.model_dump(mode="json", include=set(names))
    kind = type(model)
    return {name: value for name, value in values.items() if getattr(model, name) != introduced(kind, name)}


def idle_fields(config: RunConfig, method: Method) -> frozenset[str]:
    """Return the training fields that have no effect under the others."""
    phases = method.phases(config.schedule)
    steps = config.budget // config.batch
    each = config.budget // (config.batch * len(phases))
    last = steps - (len(phases) - 1) * each  # the longest phase
    moves = [config.student is not None and phase.group == 1 for phase in phases]
    afresh = [move and True not in moves[:index] for index, move in enumerate(moves)]  # another network starts afresh
    idle = set()
    if config.gradients != "clip_norm":
        idle.add("clip_norm")
    if config.mu_i is not None:
        idle.add("ema_residual")
    if config.warmup <= config.batch:  # the first step has the full rate
        idle.add("warmup")
    if last == 1:
        idle.add("lr_schedule")
    if all(afresh[1:]):
        idle |= {"ema_reset", "phase_start"}
    lengths = [each] * (len(phases) - 1) + [last]
    # the first update of an average copies the student, whatever its momentum; a self-teacher is read before its update
    taught = [new or config.phase_start == "from_teacher" for new in afresh]
    if not method.self_teacher or _longest(lengths, taught) <= 2:
        idle.add("mu_s")
    averaged = [new or config.ema_reset == "phase" for new in afresh]
    if _longest(lengths, averaged) == 1:
        idle |= {"mu_i", "ema_residual"}
    return frozenset(idle)


def _longest(lengths: Sequence[int], restarts: Sequence[bool]) -> int:
    """Return the most steps between two restarts, one of which may be at the start of each phase."""
    most = together = 0
    for length, restart in zip(lengths, restarts, strict=True):
        together = length if restart else together + length
        most = max(most, together)
    return most


def training_form(config: RunConfig, method: Method) -> dict[str, object]:
    """Return what training reads of a configuration, in normal form, as JSON values."""
    if not method.trains:
        return {}
    form = stated(config, TRAINING_FIELDS - idle_fields(config, method))
    form["steps"] = config.budget // config.batch
    options = stated(method, frozenset(type(method).model_fields) - method.sampling_options)
    return form | ({"options": options} if options else {})


def sampling_form(config: RunConfig, method: Method) -> dict[str, object]:
    """Return what sampling reads of a configuration, in normal form, as JSON values."""
    names = frozenset(type(method).model_fields)
    options = stated(method, names & method.sampling_options if method.trains else names)
    form = stated(config, SAMPLING_FIELDS) | {"method": config.method}
    if not method.trains:
        form["teacher_steps"] = config.grid_steps  # what its distillation error is measured against
    return form | ({"options": options} if options else {})


def comparison_form(config: RunConfig, method: Method) -> dict[str, object]:
    """Return what runs of one cell of a table share, and those of another budget, in normal form, as JSON values.

    That is everything but seeds, budget and chunk; teacher and data stand for what they name.
    """
    training = {key: value for key, value in training_form(config, method).items() if key not in ("seed", "steps")}
    sampling = sampling_form(config, method)
    return {
        "training": training,
        "sampling": {key: value for key, value in sampling.items() if key not in ("sampling_seeds", "chunk")},
        "process": load_process(config.process, config.grid_steps).key,
        "dataset": config.dataset,
        "teacher": config.teacher,
        "protocol": config.protocol,
    }


def student_id(config: RunConfig, method: Method, dataset: Dataset, process: Process, teacher_hash: str) -> str:
    """Return the sha256 of all that decides a student's weights.

    Args:
        config: the run.
        method: its method; one from outside this distribution counts with all of its own.
        dataset: its data set; likewise.
        process: its diffusion process.
        teacher_hash: sha256 of the teacher's weights' hash and of all that turns them into a denoiser.
    """
    parts: dict[str, object] = {"process": process.key, "teacher": teacher_hash}
    if method.trains:
        plugins = [distribution_hash(type(part)) for part in (method, dataset, process)]
        parts |= {"version": TRAINING_VERSION, "training": training_form(config, method), "plugins": plugins}
        parts["data"] = dataset.fingerprint
    if config.student is not None:
        parts["network"] = dataset.network(config.student, config.process).key
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def cell_id(student: str, config: RunConfig, method: Method, dataset: Dataset, reference_hash: str) -> str:
    """Return the sha256 of a student with its sampling, its protocol and the reference it is scored against."""
    parts = {
        "version": SCORING_VERSION,
        "student": student,
        "sampling": sampling_form(config, method),
        "reference": reference_hash,
        "plugins": [distribution_hash(type(part)) for part in (method, dataset)],
    }
    return hashlib.sha256(canonical(parts).encode()).hexdigest()
