"""What a method promises before anything is trained: its options, its schedule, its times, its sampler."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Literal, get_args, get_origin

import torch

from tractbench.checks.case import Case, method_case
from tractbench.checks.exact import uniforms
from tractbench.checks.finding import Check, Finding, examine, inapplicable, require, tried, untouched
from tractbench.checks.fixed_point import check_fixed_point, check_pull, check_repeated
from tractbench.checks.losses import check_bits, check_labels, check_loss, check_student, check_target
from tractbench.checks.samples import check_samples
from tractbench.checks.training import check_resume, check_run
from tractbench.config.command import run_command
from tractbench.config.fields import RunConfig
from tractbench.config.flags import parse_settings
from tractbench.diffusion.denoiser import CountingDenoiser
from tractbench.diffusion.processes import process_class
from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import ConfigError
from tractbench.method import Method, Phase, Times
from tractbench.registry import load_method

NFES = (1, 2, 4)


def check_method(name: str) -> Iterator[Finding]:
    """Yield what the contract test finds of a method, on each of its processes.

    Raises:
        ConfigError: it cannot be loaded.
    """
    method = load_method(name)
    yield from examine("method", method.name, method, DECLARATION)
    for process in method.processes:
        shown = method.name if len(method.processes) == 1 else f"{method.name} on {process}"
        made: list[Case] = []

        def set_up(process: str = process, made: list[Case] = made) -> str:
            made.append(method_case(method, process))
            case = made[0]
            return f"{case.dataset.name}, schedule {','.join(map(str, case.config.schedule)) or 'none'}"

        yield tried("method", shown, "a run is set up", set_up)
        yield from examine("method", shown, made[0], CHECKS) if made else ()


def check_options(method: type[Method]) -> str:
    """Check that options are described, have names of their own, and survive the command line and a record."""
    for name, field in method.model_fields.items():
        require(
            bool((field.description or "").strip()),
            f"option '{name}' has no description",
            f'write {name}: ... = Field(..., description="what it is")',
        )
        require(name not in RunConfig.model_fields, f"option '{name}' is also a setting of every run", "rename it")
    chosen = method()
    for values in variants(method):
        options = chosen.model_copy(update=values).model_dump(mode="json")
        through_json = method.model_validate(json.loads(json.dumps(options)))
        words = shlex.split(run_command(options))
        pairs = [after for before, after in pairwise(words) if before == "--set"]
        through_flags = method.model_validate(parse_settings(pairs))
        for kind, found in (("a record", through_json), ("--set", through_flags)):
            lost = [key for key, value in options.items() if found.model_dump(mode="json")[key] != value]
            require(not lost, f"option '{', '.join(lost)}' is another one after {kind}", "give it a plain type")
    return f"{len(method.model_fields)} options"


def variants(method: type[Method]) -> list[dict[str, object]]:
    """Return the default options, and each other value of those that have few."""
    found: list[dict[str, object]] = [{}]
    for name, field in method.model_fields.items():
        kind = field.annotation
        choices = get_args(kind) if get_origin(kind) is Literal else (True, False) if kind is bool else ()
        found += [{name: choice} for choice in choices if choice != field.default]
    return found


def check_declaration(method: type[Method]) -> str:
    """Check that names, processes, defaults and sampling options are ones that there are."""
    require(bool(method.summary.strip()) and "\n" not in method.summary, "summary is no line", "write one line")
    require(bool(method.processes), "processes is empty", 'name those it is defined for, such as ("vp",)')
    for process in method.processes:
        process_class(process)
    settings = RunConfig.model_fields.keys() - {"method", "dataset", "tier", "options"}
    for key in method.defaults:
        require(
            key in settings, f"defaults: '{key}' is no run setting", "name fields of RunConfig; options have theirs"
        )
    unknown = method.sampling_options - method.model_fields.keys()
    require(not unknown, f"sampling_options: no option '{', '.join(sorted(unknown))}'", "name options of the method")
    require(method.draws >= 1, f"draws is {method.draws}", "give each example at least one uniform")
    method()
    return f"processes {', '.join(method.processes)}"


def check_phases(case: Case) -> str:
    """Check that the phases tile the schedule: each starts where the last one ended."""
    method = case.method
    if not method.trains:
        require(not method.phases(()), "phases(()) is not empty, but trains is False", "return ()")
        inapplicable("it trains nothing")
    for nfe in NFES:
        schedule = method.default_schedule(nfe)
        shown = ",".join(map(str, schedule))
        require(
            len(schedule) > 1, f"default_schedule({nfe}) is ({shown})", "give a start and an end, such as (1024, 1)"
        )
        if not method.any_nfe:
            require(
                schedule[-1] == nfe,
                f"default_schedule({nfe}) ends at {schedule[-1]}",
                f"end it at {nfe}, or set any_nfe = True if one student serves every NFE",
            )
        else:
            require(schedule[-1] == 1, f"any_nfe, but default_schedule({nfe}) is ({shown})", "end it at 1")
            require(
                schedule == method.default_schedule(1),
                "any_nfe, but the default schedule depends on nfe",
                "return the same for every NFE, or each has a student of its own",
            )
        for entries in (schedule, case.config.schedule):
            phases = method.phases(entries)
            ends = [entries[0], *(phase.end for phase in phases)]
            tiled = all(phase.start == before for phase, before in zip(phases, ends, strict=False))
            wanted = ",".join(map(str, entries))
            require(
                bool(phases) and tiled and ends[-1] == entries[-1],
                f"phases of {wanted} are {', '.join(f'{p.start} to {p.end}' for p in phases) or 'none'}",
                "start the first at the first entry, each other where the last one ended, and end at the last entry",
            )
            odd = [phase for phase in phases if phase.end < 1 or phase.start % phase.end]
            require(not odd, f"a phase of {wanted} does not divide its steps", "let end divide start")
    return f"{len(case.phases)} of schedule {','.join(map(str, case.config.schedule))}"


def check_times(case: Case) -> str:
    """Check that times are float64 in (0, 1] and in order; without another way to know, a jump ends with its group."""
    method = _trained(case)
    remedy = "see Times in tractbench.method: 0 <= t_end <= t_next <= t <= 1, t > 0"
    u = extreme_uniforms(64, method.draws)
    for phase in case.phases:
        for progress in (0.0, 0.3, 0.999):
            draw = partial(method.times, u, phase, progress, case.process)
            times = untouched("times()", draw)
            where = f"in phase {phase.start} to {phase.end}"
            for name, value in vars(times).items():
                require(
                    value.shape == u.shape[:1] and value.dtype == torch.float64,
                    f"{name} is {value.dtype} of shape {tuple(value.shape)} {where}",
                    "return float64 [B]",
                )
                good = bool((value.isfinite() & (value >= 0) & (value <= 1)).all())
                require(good, f"{name} is {_first(value, (value >= 0) & (value <= 1))} {where}", remedy)
            require(bool((times.t > 0).all()), f"t is 0 {where}", remedy)
            for low, high in (("t_end", "t_next"), ("t_next", "t")):
                fine = getattr(times, low) <= getattr(times, high) + 1e-12
                require(bool(fine.all()), f"{low} is above {high} {where}", remedy)
            if not (method.any_nfe or method.two_times):
                _in_groups(times, phase, where)
    return "0 <= t_end <= t_next <= t <= 1"


def _in_groups(times: Times, phase: Phase, where: str) -> None:
    """Raise Wrong unless each jump ends where the sampler's step does that starts in the same group."""
    steps = times.t_end * phase.end
    whole = (steps - steps.round()).abs() < 1e-9
    require(
        bool(whole.all()),
        f"t_end is {_first(times.t_end, whole)} {where}",
        f"let jumps end at multiples of 1/{phase.end}, as the sampler's steps do, or set two_times",
    )
    inside = (times.t > times.t_end) & (times.t <= times.t_end + 1 / phase.end + 1e-12)
    require(
        bool(inside.all()),
        f"a jump from t = {_first(times.t, inside)} ends at {_first(times.t_end, inside)} {where}",
        f"let it end at the lower end of its group, at most 1/{phase.end} below",
    )


def check_sampler(case: Case) -> str:
    """Check that the sampler goes from 1 to 0 with at most nfe evaluations, by a solver that the process has."""
    method, process, spent = case.method, case.process, []
    for nfe in NFES:
        try:
            sampler = untouched("sampler()", partial(method.sampler, nfe, process))
        except ConfigError as error:
            require(nfe > 1, str(error), "let the default options make a sampler of one evaluation")
            continue
        require(
            sampler.solver in process.solvers,
            f"solver '{sampler.solver}' is not for process '{process.name}'",
            f"choose {' or '.join(process.solvers)}",
        )
        denoiser = CountingDenoiser(lambda x, t, labels=None, *t_end: torch.zeros_like(x))
        x, fresh = torch.ones(2, 1, 1, 1, dtype=torch.float64), [torch.zeros(2, 1, 1, 1)] * len(sampler.noise)
        sample_ode(denoiser, process, x, sampler, fresh=fresh, two_times=method.two_times)
        require(
            denoiser.evaluations <= nfe,
            f"sampler({nfe}) spends {denoiser.evaluations} evaluations",
            "take fewer steps: sampler(nfe) may spend nfe evaluations at most",
        )
        spent.append(f"{nfe}: {denoiser.evaluations}")
    return f"evaluations by nfe {', '.join(spent)}"


def extreme_uniforms(count: int, draws: int) -> torch.Tensor:
    """Return evenly spread uniforms ``[count, draws]``, float64; the first rows are the ends of [0, 1)."""
    u = uniforms(count, draws)
    u[0], u[1] = 0.0, 1 - 2.0**-53
    return u


def _first(value: torch.Tensor, good: torch.Tensor) -> float:
    return float(value[~good][0]) if bool((~good).any()) else float(value[0])


def _trained(case: Case) -> Method:
    if not case.method.trains:
        inapplicable("it trains nothing")
    return case.method


DECLARATION = (Check("declaration", check_declaration), Check("options", check_options))
CHECKS = (
    Check("phases", check_phases),
    Check("times", check_times),
    Check("sampler", check_sampler),
    Check("target", check_target),
    Check("loss", check_loss),
    Check("student", check_student),
    Check("labels", check_labels),
    Check("bits", check_bits),
    Check("repeated steps", check_repeated),
    Check("pull", check_pull),
    Check("fixed point", check_fixed_point),
    Check("samples", check_samples),
    Check("resume", check_resume),
    Check("run", check_run),
)
