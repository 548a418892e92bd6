"""Timing: what a piece of work takes on a device, several in turn, and the fastest matrix product there is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from tractbench.pipeline.runtime import synchronise
from tractbench.training.numerics import Precision, precision

Work = Callable[[], object]


def seconds(work: Work, device: str, repeat: int = 1) -> float:
    """Return the mean seconds of some repetitions, all of it done when the clock is read."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(repeat):
        work()
    synchronise(device)
    return (time.perf_counter() - started) / repeat


def interleaved(
    works: Mapping[str, Work], device: str, *, limit: float, rounds: int = 15, least: float = 0.02
) -> dict[str, list[float]]:
    """Time several pieces of work in turn, so that what else the machine does meets all of them alike.

    Args:
        works: by name.
        device: cpu or cuda.
        limit: seconds that all of it may take; three rounds are always made.
        rounds: rounds at most.
        least: seconds that a piece of work is repeated for in a round.

    Returns:
        By name, seconds a round.
    """
    started = time.perf_counter()
    repeats = {}
    for name, work in works.items():
        work()  # the first call allocates and chooses kernels
        repeats[name] = max(1, round(least / max(seconds(work, device), 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in works}
    while len(next(iter(times.values()))) < rounds:
        done = len(next(iter(times.values())))
        if done >= 3 and time.perf_counter() - started > limit:
            break
        for name, work in works.items():
            times[name].append(seconds(work, device, repeats[name]))
    return times


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over rounds of the ratio of two times."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def matrix_peak(device: str, name: Precision, limit: float = 0.4) -> float:
    """Return the FLOP/s of the fastest square matrix product in a precision, found within about ``limit`` seconds."""
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    sizes = (256, 512, 1024) if device == "cpu" else (2048, 4096, 8192)
    best, started = 0.0, time.perf_counter()
    with precision(name, device):
        for size in sizes:
            a = torch.ones(size, size, device=device, dtype=dtype)
            product = torch.empty_like(a)
            for trial in range(4):
                spent = seconds(lambda a=a, product=product: torch.mm(a, a, out=product), device)  # type: ignore[misc]
                best = max(best, 2 * size**3 / spent) if trial else best  # the first one chooses a kernel
                if time.perf_counter() - started > limit and best:
                    return best
    return best
