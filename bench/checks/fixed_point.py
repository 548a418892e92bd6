"""Whether a student that solves the ODE exactly is what a method trains towards, on one Gaussian.

The student is exact + sum_k theta_k d_k with a theta of each example's own. At theta = 0 the gradient by theta has to
vanish, or to become small against that of a wrong student as the teacher's steps become finer, or as training goes on.
Each example is compared with itself, so that no weight hides another's error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tractbench.checks.case import GRID, Case
from tractbench.checks.exact import DIRECTIONS, SHAPE, ExactStudent, paired_batch, perturbed, teacher, uniforms
from tractbench.checks.finding import Wrong, inapplicable, require
from tractbench.diffusion.denoiser import Denoiser
from tractbench.errors import ConfigError
from tractbench.method import Method, Nets, Phase
from tractbench.nets.distances import stand_ins
from tractbench.training.modules import new_modules
from tractbench.training.passes import no_self_teacher

EXAMPLES = 64
WRONG = 0.1
"""theta of the wrong student."""
EXACT = 1e-6
"""A gradient this small against a wrong student's is rounding."""
SMALL = 0.03
"""What is called small against a wrong student's gradient; it has to be falling too."""
FINEST = 2048
"""Teacher steps at which refining ends."""
ALMOST = 0.999
"""Progress of a phase that is about to end."""


@dataclass(frozen=True)
class Slopes:
    """Gradients by theta, averaged over pairs, each ``[B, 5]``.

    Attributes:
        exact: at the exact student.
        wrong: at the wrong one.
    """

    exact: Tensor
    wrong: Tensor

    @property
    def ratio(self) -> float:
        """Mean over examples of the exact student's gradient in units of the wrong one's."""
        return float((self.exact.norm(dim=1) / self.wrong.norm(dim=1)).mean())

    @property
    def back(self) -> float:
        """Share of examples whose gradient draws the wrong student back."""
        return float((self.wrong.sum(1) > 0).double().mean())


def slopes(case: Case, method: Method, phase: Phase, progress: float) -> Slopes:
    """Return the gradients at the exact and at a wrong student of a phase, the wrong one only where it is trained."""
    process = type(case.process).on_grid(phase.start)
    times = method.times(uniforms(EXAMPLES, method.draws), phase, progress, process)
    batch = paired_batch(process, times, torch.zeros(2 * EXAMPLES, dtype=torch.int64))
    exact: Denoiser = ExactStudent(process, 1 if method.any_nfe else phase.end, method.two_times)
    if phase.group == 1:
        exact = teacher(process)
    nets = Nets(
        teacher(process),
        exact if method.self_teacher else no_self_teacher,
        exact,
        dict(new_modules(method, SHAPE, 0).items()),
        stand_ins(method.distances(SHAPE)),
    )

    def slope(at: float) -> Tensor:
        theta = torch.full((2 * EXAMPLES, DIRECTIONS), at, dtype=torch.float64, requires_grad=True)
        loss = method.objective(batch, phase, progress, nets, perturbed(exact, process, theta))
        if loss.shape != (2 * EXAMPLES,) or not bool(loss.detach().isfinite().all()):
            inapplicable("the loss is not a finite number for each example; see check 'loss'")
        return torch.autograd.grad(loss.sum(), theta)[0].reshape(2, EXAMPLES, -1).mean(0)

    return Slopes(slope(0.0), slope(WRONG))


def check_repeated(case: Case) -> str:
    """Check that a phase that repeats its steps, which moves into another network, learns the teacher's x0 as it is."""
    method = _trained(case)
    found = slopes(case, method, Phase(GRID, GRID), 0.5)
    require(
        found.ratio < EXACT,
        f"the teacher is not what a phase of {GRID} to {GRID} steps trains towards: its "
        f"gradient is {found.ratio:.2g} of a wrong student's",
        "where phase.group == 1 let the target be nets.teacher(batch.x_t, batch.times.t, batch.labels)",
    )
    return "a student equal to the teacher is a fixed point"


def check_pull(case: Case) -> str:
    """Check that the gradient draws a wrong student back to the exact one, and does not push it away."""
    method = _trained(case)
    phase = refined(method, GRID * 4)
    share = slopes(case, exact_options(method), phase, ALMOST).back
    require(
        share > 0.75,
        f"for {1 - share:.0%} of examples a wrong student is pushed further away",
        "look for a sign: of the weight, of the distance, or of what is subtracted",
    )
    return f"a wrong student is drawn back for {share:.0%} of examples"


def check_fixed_point(case: Case) -> str:
    """Check that the exact student's gradient vanishes, or falls with finer steps of the teacher or in training."""
    method = _trained(case)
    chosen = exact_options(method)
    found = _vanishing(case, chosen)
    changed = {k: v for k, v in chosen.model_dump().items() if v != method.model_dump()[k]}
    if not changed:
        return found
    as_it_is = slopes(case, method, refined(method, 64), ALMOST).ratio
    return f"with {', '.join(f'{k} = {v}' for k, v in changed.items())}: {found}; {as_it_is:.2g} by default"


def exact_options(method: Method) -> Method:
    """Return a method with the options of unbounded data, and those that are steps of its own where they are exact.

    Such an option says so: ``Field(0.1, json_schema_extra={"exact": 0.0})``.
    """
    changes: dict[str, object] = {}
    for name, field in type(method).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and "exact" in extra:
            changes[name] = extra["exact"]
    return type(method).model_validate(method.model_dump() | changes)


def refined(method: Method, start: int, end: int = 1) -> Phase:
    """Return a phase from ``start`` steps: to ``end``, or by the largest factor that the method takes."""
    for last in (end, *(start // factor for factor in (8, 4, 2))):
        try:
            phases = method.phases((start, last))
        except ConfigError:
            continue
        if phases:
            return phases[0]
    raise Wrong(f"no schedule of {start} steps has phases", "let phases() take one that halves the steps")


def _vanishing(case: Case, method: Method) -> str:
    """Return how the exact student's gradient vanishes; raise Wrong if it does not."""
    said = []
    for end in (1,) if method.any_nfe else (1, 2):
        ratios: list[tuple[int, float]] = []
        start = 2 * GRID
        while start <= FINEST:
            phase = refined(method, start, end)
            ratios.append((start, slopes(case, method, phase, ALMOST).ratio))
            if vanished := _judged(ratios):
                said.append(vanished)
                break
            start *= 2
        else:
            said.append(_by_progress(case, method, end, ratios))
    return "; ".join(dict.fromkeys(said))


def _judged(ratios: list[tuple[int, float]]) -> str:
    """Say that the last ratios are rounding, or small and falling; "" if neither."""
    last = ratios[-1][1]
    if last < EXACT:
        return "exact"
    if len(ratios) < 3 or last > SMALL:
        return ""
    order = math.log2(ratios[-3][1] / last) / 2
    return f"order {order:.1f} in the teacher's steps: {last:.2g} at {ratios[-1][0]}" if order > 0.7 else ""


def _by_progress(case: Case, method: Method, end: int, ratios: list[tuple[int, float]]) -> str:
    """Return how the gradient falls as training goes on; raise Wrong if it does not."""
    phase = refined(method, 4 * GRID, end)
    path = [slopes(case, method, phase, progress).ratio for progress in (0.0, 0.5, ALMOST)]
    if path[-1] < SMALL and path[0] > 4 * path[-1]:
        return f"falls as training goes on: {', '.join(f'{ratio:.2g}' for ratio in path)}"
    by_steps = ", ".join(f"{ratio:.2g} at {start}" for start, ratio in (ratios[0], ratios[-1]))
    raise Wrong(
        f"a student that solves the ODE exactly is trained away: to {phase.end if not method.any_nfe else 1} steps its "
        f"gradient is {by_steps} teacher steps, in units of a wrong student's",
        "look for a wrong sign, time or network in the target; an option that is a step of the method's own says where "
        'it is exact: Field(..., json_schema_extra={"exact": 0.0})',
    )


def _trained(case: Case) -> Method:
    if not case.method.trains:
        inapplicable("it trains nothing")
    return case.method
