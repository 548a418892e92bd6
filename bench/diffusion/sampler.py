"""A sampler as a value: the times it visits, its solver, and where fresh noise comes in."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from tractbench.errors import ConfigError


@dataclass(frozen=True)
class Sampler:
    """The steps from pure noise at t = 1 to an image at t = 0.

    Attributes:
        times: where steps begin, from 1 downwards, and, last, 0 where the last one ends.
        solver: ``ddim``, one evaluation a step, or ``heun``, two but for the last step, which is DDIM's.
        noise: for each step but the last, the time at which it lands before fresh noise brings the state up to the
            next of ``times``; () for a deterministic sampler.

    Raises:
        ConfigError: the times do not fall from 1 to 0, a step lands above the next one's start, or Heun's solver is
            to take noise.
    """

    times: tuple[float, ...]
    solver: str = "ddim"
    noise: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        shown = ", ".join(f"{time:g}" for time in self.times)
        if len(self.times) < 2 or (self.times[0], self.times[-1]) != (1, 0):
            raise ConfigError(f"sampler times {shown}: they go from 1 to 0")
        if not all(before > after for before, after in pairwise(self.times)):
            raise ConfigError(f"sampler times {shown}: give them in falling order")
        if not self.noise:
            return
        if self.solver != "ddim":
            raise ConfigError(f"solver {self.solver!r}: fresh noise goes with ddim alone; choose ddim")
        fits = len(self.noise) == self.steps - 1
        if not fits or not all(0 <= low <= high for low, high in zip(self.noise, self.times[1:-1], strict=True)):
            landings = ", ".join(f"{time:g}" for time in self.noise)
            raise ConfigError(f"sampler noise {landings}: give a time from 0 for each of {shown} but the ends")

    @classmethod
    def equal(cls, steps: int, solver: str = "ddim") -> Self:
        """Return the deterministic sampler of ``steps`` equal steps of t."""
        return cls(tuple(index / steps for index in range(steps, -1, -1)), solver)

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.times) - 1

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations of an image."""
        return 2 * self.steps - 1 if self.solver == "heun" else self.steps


def solver_steps(solver: str, evaluations: int) -> int:
    """Return the most steps a solver can take with so many denoiser evaluations: Heun spends 2 S - 1 on S steps."""
    return (evaluations + 1) // 2 if solver == "heun" else evaluations
