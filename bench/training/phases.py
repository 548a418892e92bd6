"""When each phase of a distillation starts, and what it trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tractbench.config.fields import RunConfig
from tractbench.method import Phase


@dataclass(frozen=True)
class PhasePlan:
    """When a phase starts, how many steps it has, the inference momentum in it, and its student's network.

    ``network`` is the name of one of the data set's networks, or None for the teacher's own.
    """

    phase: Phase
    first_step: int
    steps: int
    momentum: float
    network: str | None


def plan_phases(config: RunConfig, phases: tuple[Phase, ...]) -> tuple[PhasePlan, ...]:
    """Split the budget: floor(images / (batch * phases)) steps a phase, the spare ones to the last.

    The inference momentum is ``mu_i`` or r^(1/N) with N the steps of the phase. The first phase that repeats its steps
    moves the student into the network that the run names.
    """
    total = config.budget // config.batch
    each = config.budget // (config.batch * len(phases))
    plans = []
    network = None
    for index, phase in enumerate(phases):
        steps = each if index < len(phases) - 1 else total - each * index
        momentum = config.mu_i if config.mu_i is not None else config.ema_residual ** (1 / steps)
        network = config.student if phase.group == 1 else network
        plans.append(PhasePlan(phase, each * index, steps, momentum, network))
    return tuple(plans)


def phase_at(plans: Sequence[PhasePlan], step: int) -> int:
    """Return the index of the phase that a step belongs to; steps before the first and after the last to these."""
    return max((index for index, plan in enumerate(plans) if plan.first_step <= step), default=0)
