"""What a diffusion process promises: scales that go the right way, agree with each other and are exact enough."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
from torch import Tensor

from tractbench.checks.case import GRID
from tractbench.checks.exact import SHAPE, solution, teacher
from tractbench.checks.finding import Check, Finding, Wrong, examine, require
from tractbench.diffusion.processes import Process, load_process, process_class
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.seeds import generator

SOLVERS = ("ddim", "heun")


def check_process(name: str) -> Iterator[Finding]:
    """Yield what the contract test finds of a process.

    Raises:
        ConfigError: it cannot be loaded.
    """
    process = load_process(process_class(name).name, GRID)
    yield from examine("process", process.name, process, CHECKS)


def times(count: int = 4 * GRID) -> Tensor:
    """Return times of the grid and between them, from 1 / count to 1."""
    return torch.arange(1, count + 1, dtype=torch.float64) / count


def check_declaration(process: Process) -> str:
    """Check that solvers, parameterisations and key are ones that can be used."""
    kind = type(process)
    require(kind.default_steps >= 1, f"default_steps is {kind.default_steps}", "give the steps of its teachers' grid")
    require(
        bool(kind.solvers) and set(kind.solvers) <= set(SOLVERS),
        f"solvers are {kind.solvers}",
        f"name {' or '.join(SOLVERS)}, the usual one first",
    )
    require(bool(kind.parameterisations), "parameterisations is empty", "name those of its networks")
    require(kind.data_scale > 0, f"data_scale is {kind.data_scale}", "give the data's standard deviation")
    key = json.dumps(process.key, sort_keys=True)
    again = json.dumps(load_process(process.name, GRID).key, sort_keys=True)
    require(key == again, "key differs from one object to the next", "make it of what decides the process alone")
    return f"solvers {', '.join(kind.solvers)}, key {key}"


def check_dtype(process: Process) -> str:
    """Check that everything is float64 of the times' shape, whatever the times' own precision."""
    t = times()
    for given in (t, t.float(), t.reshape(4, -1)):
        found = {name: getattr(process, name)(given) for name in ("alpha", "sigma", "log_snr")}
        found |= process.scales(given, given / 2)._asdict() | {"time": process.time(torch.ones_like(given))}
        for name, value in found.items():
            require(
                value.dtype == torch.float64 and value.shape == given.shape,
                f"{name} of {given.dtype} {tuple(given.shape)} is {value.dtype} {tuple(value.shape)}",
                "compute in float64: t.double()",
            )
            require(bool(value.isfinite().all()), f"{name} is not finite", "use a form that cancels nothing")
    return "float64"


def check_monotone(process: Process) -> str:
    """Check that from t = 0 to 1 the signal does not grow, and the noise-to-signal ratio does."""
    t = torch.cat([torch.zeros(1, dtype=torch.float64), times()])
    alpha, sigma = process.alpha(t), process.sigma(t)
    require(
        bool((alpha > 0).all() and (sigma[1:] > 0).all() and sigma[0] >= 0),
        "alpha or sigma is negative or 0",
        "alpha > 0 everywhere, sigma > 0 above t = 0",
    )
    require(bool((alpha.diff() <= 0).all()), "alpha grows with t", "t = 0 is the clean end")
    require(bool((sigma / alpha).diff().min() > 0), "sigma / alpha does not grow with t", "t = 0 is the clean end")
    return f"sigma / alpha from {float(sigma[0] / alpha[0]):.3g} to {float(sigma[-1] / alpha[-1]):.3g}"


def check_ends(process: Process) -> str:
    """Check that its ends are the scales' own."""
    one = torch.ones((), dtype=torch.float64)
    largest = float(process.sigma(one) / process.alpha(one))
    first = float(process.sigma(one / GRID) / process.alpha(one / GRID))
    _near("sigma_max", process.sigma_max, largest, "return sigma / alpha at t = 1")
    require(
        0 < process.sigma_min <= first * (1 + 1e-9),
        f"sigma_min is {process.sigma_min:.4g}, but a sampler of the grid meets {first:.4g}",
        "return at most sigma / alpha at the first time above 0",
    )
    scale = float((process.alpha(one) ** 2 + process.sigma(one) ** 2) ** 0.5)
    require(
        abs(process.prior_std / scale - 1) < 0.01,
        f"prior_std is {process.prior_std:.4g}, x_1 has {scale:.4g}",
        "return the standard deviation of x_t at t = 1",
    )
    return f"sigma_min {process.sigma_min:.3g}, sigma_max {process.sigma_max:.3g}, prior_std {process.prior_std:.3g}"


def check_time(process: Process) -> str:
    """Check that time() is the inverse of sigma / alpha."""
    t = times()
    back = process.time(process.sigma(t) / process.alpha(t))
    worst = float((back - t).abs().max())
    require(
        worst < 1e-9,
        f"time(sigma(t) / alpha(t)) differs from t by {worst:.2g}",
        "return the time at which sigma / alpha is the ratio, from t = 0 on",
    )
    return f"to {worst:.0e}"


def check_scales(process: Process) -> str:
    """Check that scales() and log_snr() say the same as alpha and sigma."""
    t = times()
    s = t * torch.linspace(0.05, 0.99, len(t), dtype=torch.float64)
    scales = process.scales(t, s)
    cross = process.alpha(s) * process.sigma(t) - process.alpha(t) * process.sigma(s)
    pairs = {
        "sigma_t": (scales.sigma_t, process.sigma(t)),
        "sigma_s": (scales.sigma_s, process.sigma(s)),
        "cross": (scales.cross, cross),
        "log_snr": (process.log_snr(t), 2 * (process.alpha(t) / process.sigma(t)).log()),
    }
    for name, (found, wanted) in pairs.items():
        worst = float((found - wanted).abs().max() / wanted.abs().max())
        require(
            worst < 1e-9,
            f"{name} differs by {worst:.2g} from what alpha and sigma give",
            "cross is alpha(s) sigma(t) - alpha(t) sigma(s), log_snr is ln(alpha^2 / sigma^2)",
        )
    return "agree"


def check_solution(process: Process) -> str:
    """Check that its usual solver tends to the exact solution of the ODE on one Gaussian."""
    noise = torch.randn((64, *SHAPE), dtype=torch.float64, generator=generator("check", "prior"))
    x, errors = process.prior_std * noise, []
    for steps in (GRID, 4 * GRID, 16 * GRID):
        on_grid = type(process).on_grid(steps)
        one, zero = torch.ones(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
        exact = solution(on_grid, x, one, zero)
        sampler = Sampler.equal(steps, process.solvers[0])
        errors.append(float((sample_ode(teacher(on_grid), on_grid, x, sampler, clip=False) - exact).std()))
    shown = ", ".join(f"{error:.2g}" for error in errors)
    if not errors[-1] < 0.4 * errors[-2] < 0.16 * errors[-3]:
        raise Wrong(
            f"{process.solvers[0]} does not tend to the ODE's solution: errors {shown}",
            "look at scales(), alpha and sigma",
        )
    return f"errors {shown} in {GRID}, {4 * GRID}, {16 * GRID} steps"


def _near(name: str, found: float, wanted: float, remedy: str) -> None:
    require(abs(found - wanted) <= 1e-9 * abs(wanted), f"{name} is {found:.6g}, not {wanted:.6g}", remedy)


CHECKS = (
    Check("declaration", check_declaration),
    Check("float64", check_dtype),
    Check("monotone", check_monotone),
    Check("ends", check_ends),
    Check("time", check_time),
    Check("scales", check_scales),
    Check("solution", check_solution),
)
