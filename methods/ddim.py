"""DDIM (Song et al. 2021): the teacher itself in few steps, the baseline of every distillation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler, solver_steps
from tractbench.method import Method


class DDIM(Method):
    """Samples the teacher with as many equal steps as the evaluations allow; nothing is trained."""

    name: ClassVar[str] = "ddim"
    summary: ClassVar[str] = "the teacher sampled in few steps, without distillation"
    processes: ClassVar[tuple[str, ...]] = ("vp", "ve")
    trains: ClassVar[bool] = False

    solver: Literal["ddim", "heun"] = Field(
        "ddim",
        description="ddim (Euler's method for a VE teacher), or heun for VE teachers: 2 S - 1 evaluations in S steps",
    )

    def sampler(self, nfe: int, process: Process) -> Sampler:
        """Return equal steps of the chosen solver."""
        return Sampler.equal(solver_steps(self.solver, nfe), self.solver)

    def teacher_sampler(self) -> str:
        """Return the same solver."""
        return self.solver
