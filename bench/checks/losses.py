"""What a method asks of networks and gives back: target and loss of a batch, with networks that only look on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from tractbench.checks.case import Case
from tractbench.checks.exact import uniforms
from tractbench.checks.finding import inapplicable, require, untouched
from tractbench.diffusion.processes import per_sample
from tractbench.method import Batch, Method, Nets, Phase, Target, Times
from tractbench.nets.distances import stand_ins
from tractbench.seeds import generator
from tractbench.training.modules import new_modules
from tractbench.training.passes import no_self_teacher

SHAPE = (3, 1, 1)
COUNT = 24


@dataclass
class Call:
    """One evaluation: of which network, with what."""

    network: str
    x_t: Tensor
    t: Tensor
    labels: Tensor | None
    ends: tuple[Tensor, ...]


class Spy:
    """A denoiser that remembers its calls; every pixel goes by itself, so that batches do not change its bits.

    Args:
        name: which network it stands for.
        calls: where calls are written down.
        shift: what makes it another function than the others.
        recording: whether it records gradients, by ``theta``.
    """

    def __init__(self, name: str, calls: list[Call], shift: float, recording: bool = False) -> None:
        self.name, self.calls, self.shift, self.recording = name, calls, shift, recording
        self.theta = torch.zeros((), requires_grad=recording)

    def __call__(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        """Return x0 in float32, as networks do."""
        self.calls.append(Call(self.name, x_t, t, labels, t_end))
        x0 = 0.8 * torch.tanh(x_t + self.shift) * per_sample(1 - 0.3 * t, x_t)
        with torch.set_grad_enabled(self.recording and torch.is_grad_enabled()):
            return (x0 + self.theta).float()


@dataclass
class Seen:
    """What happened when a loss was computed."""

    phase: Phase
    progress: float
    batch: Batch
    loss: Tensor
    slope: Tensor | None
    calls: list[Call]
    targets: list[Target] = field(default_factory=list)

    @property
    def where(self) -> str:
        """The phase and how far it is, for messages."""
        return f"in phase {self.phase.start} to {self.phase.end}, at {self.progress:.0%} of it"


def small_batch(case: Case, phase: Phase, progress: float) -> Batch:
    """Return examples with labels as a training step makes them; the first two are the ends of what is drawn."""
    random = generator("check", "batch")
    u = uniforms(COUNT, case.method.draws)
    u[0], u[1] = 0.0, 1 - 2.0**-53
    times = case.method.times(u, phase, progress, case.process)
    x0 = 2 * torch.rand((COUNT, *SHAPE), generator=random) - 1
    noise = torch.randn((COUNT, *SHAPE), generator=random)
    x_t = per_sample(case.process.alpha(times.t), x0) * x0 + per_sample(case.process.sigma(times.t), x0) * noise
    return Batch(x_t, times, torch.arange(COUNT) % 5, x0, noise, case.process)


def rows(batch: Batch, index: slice) -> Batch:
    """Return some of the examples."""
    times = Times(batch.times.t[index], batch.times.t_next[index], batch.times.t_end[index])
    labels = batch.labels[index] if batch.labels is not None else None
    return Batch(batch.x_t[index], times, labels, batch.x0[index], batch.noise[index], batch.process)


def look(method: Method, batch: Batch, phase: Phase, progress: float) -> Seen:
    """Compute a loss and its gradient as a training step does, and write down what the method did."""
    calls: list[Call] = []
    spies = {name: Spy(name, calls, shift) for name, shift in (("teacher", 0.0), ("self_teacher", 0.1))}
    student, frozen = Spy("student", calls, 0.2, recording=True), Spy("frozen", calls, 0.2)
    self_teacher = spies["self_teacher"] if method.self_teacher else no_self_teacher
    modules, distances = dict(new_modules(method, SHAPE, 0).items()), stand_ins(method.distances(SHAPE))
    nets = Nets(spies["teacher"], self_teacher, frozen, modules, distances)
    targets: list[Target] = []

    def target(*arguments: object) -> Target:
        with torch.enable_grad():  # what the default objective would cut off is looked at too
            targets.append(method.target(*arguments))  # type: ignore[arg-type]
        return targets[-1]

    watched = method.model_copy()
    object.__setattr__(watched, "target", target)  # frozen as it is
    loss = watched.objective(batch, phase, progress, nets, student)
    slope = None
    if loss.requires_grad:
        slope = torch.autograd.grad(loss.sum(), student.theta, allow_unused=True)[0]
    return Seen(phase, progress, batch, loss, slope, calls, targets)


def looks(case: Case) -> Iterator[Seen]:
    """Look at each phase as it starts and as it ends."""
    if not case.method.trains:
        inapplicable("it trains nothing")
    for phase in case.phases:
        for progress in (0.0, 0.999):
            yield look(case.method, small_batch(case, phase, progress), phase, progress)


def check_target(case: Case) -> str:
    """Check that targets have the images' shape, are finite at both ends of the schedule and carry no gradient."""
    found = [(seen, target) for seen in looks(case) for target in seen.targets]
    if not found:
        inapplicable("it has an objective of its own")
    for seen, target in found:
        x_t, named = seen.batch.x_t, {"x0": target.x0, "weight": target.weight}
        for name, value in named.items():
            shape = x_t.shape if name == "x0" else x_t.shape[:1]
            require(
                value.shape == shape,
                f"target's {name} has shape {tuple(value.shape)} {seen.where}",
                f"return {'[B, C, H, W], as x_t' if name == 'x0' else '[B], a number for each example'}",
            )
            require(value.is_floating_point(), f"target's {name} is {value.dtype} {seen.where}", "return floats")
            require(
                not value.requires_grad,
                f"target's {name} carries a gradient {seen.where}",
                "build it from nets without gradient; what is trained with the student belongs into objective()",
            )
            bad = ~value.flatten(1 if value.ndim > 1 else 0).isfinite().reshape(len(x_t), -1).all(1)
            require(
                not bool(bad.any()),
                f"target's {name} is not finite at t = {_times(seen, bad)} {seen.where}",
                "use a form that cancels nothing there, or replace those rows: torch.where(...)",
            )
        require(bool((target.weight >= 0).all()), f"a weight is negative {seen.where}", "return weights from 0")
    return f"{len(found)} targets: shape, finite from t = 1 to the smallest draw, no gradient"


def check_loss(case: Case) -> str:
    """Check that the loss is one finite number an example, and has a finite gradient."""
    for seen in looks(case):
        loss, count = seen.loss, len(seen.batch.x_t)
        require(
            loss.shape == (count,),
            f"the loss has shape {tuple(loss.shape)} {seen.where}",
            "return one number for each example, [B]; the engine takes the mean",
        )
        require(loss.is_floating_point(), f"the loss is {loss.dtype} {seen.where}", "return floats")
        bad = ~loss.detach().isfinite()
        require(
            not bool(bad.any()),
            f"the loss is not finite at t = {_times(seen, bad)} {seen.where}",
            "limit the weight, or use a form that cancels nothing there",
        )
        require(
            seen.slope is not None,
            f"the loss does not depend on the student {seen.where}",
            "call student(batch.x_t, batch.times.t, batch.labels) and keep its gradient",
        )
        require(
            seen.slope is not None and bool(seen.slope.isfinite()),
            f"its gradient is not finite {seen.where}",
            "mind roots at 0: add a small number under them",
        )
    return "[B], finite, with a finite gradient"


def check_student(case: Case) -> str:
    """Check that the student is called once, at the batch's states and times; frozen networks serve everything else."""
    for seen in looks(case):
        calls = [call for call in seen.calls if call.network == "student"]
        require(
            len(calls) == 1,
            f"the student was called {len(calls)} times {seen.where}",
            "call it once, for the prediction; nets.frozen is the same network without gradient, for targets",
        )
        call, times = calls[0], seen.batch.times
        same = call.x_t.shape == seen.batch.x_t.shape and torch.equal(call.x_t.double(), seen.batch.x_t)
        require(
            same and torch.equal(call.t, times.t),
            f"the student is asked elsewhere than at x_t and t {seen.where}",
            "call student(batch.x_t, batch.times.t, ...): times() decides where",
        )
        told = len(call.ends) == 1 and torch.equal(call.ends[0], times.t_end)
        wanted = case.method.two_times
        if wanted and seen.phase.group > 1:
            require(
                told,
                f"the student is not told where its jump ends {seen.where}",
                "call student(x_t, t, labels, batch.times.t_end), as samplers do with two_times",
            )
        require(
            wanted or not call.ends,
            f"the student is told where its jump ends {seen.where}",
            "set two_times = True, or leave the end out: samplers would not give it",
        )
    return "called once, at x_t and t"


def check_labels(case: Case) -> str:
    """Check that every network that is asked anything is given the classes."""
    count = 0
    for seen in looks(case):
        for call in seen.calls:
            count += 1
            labels, wanted = call.labels, seen.batch.labels
            given = labels is not None and len(labels) == len(call.x_t)
            require(
                given,
                f"{call.network} is called without labels {seen.where}",
                f"pass batch.labels on: nets.{call.network}(x, t, batch.labels)".replace("nets.student", "student"),
            )
            if labels is not None and wanted is not None and len(labels) == len(wanted):
                require(
                    torch.equal(labels, wanted),
                    f"{call.network} is called with other labels {seen.where}",
                    "pass batch.labels on as they are",
                )
    return f"reach all {count} calls"


def check_bits(case: Case) -> str:
    """Check that a batch gives the same bits twice and in parts, as processes that share it see it."""
    for seen in looks(case):
        loss, count = seen.loss.detach(), len(seen.batch.x_t)
        if loss.shape != (count,):
            inapplicable("the loss is no number for each example; see check 'loss'")
        second = untouched("the loss", partial(look, case.method, seen.batch, seen.phase, seen.progress))
        require(
            torch.allclose(loss, second.loss.detach(), rtol=0, atol=0, equal_nan=True),
            f"the same batch has two losses {seen.where}",
            "draw no random numbers and keep no state; times and noise are given",
        )
        half = COUNT // 2
        for parts in ((slice(0, half), slice(half, COUNT)), (slice(0, 1), slice(1, COUNT))):
            apart = torch.cat(
                [look(case.method, rows(seen.batch, part), seen.phase, seen.progress).loss.detach() for part in parts]
            )
            close = torch.isclose(apart.double(), loss.double(), rtol=1e-6, atol=1e-30, equal_nan=True)
            require(
                bool(close.all()),
                f"an example's loss depends on the others of its batch {seen.where}",
                "take no mean, norm or sort over the batch: several processes share it, each sees a part",
            )
    return "twice the same, and the same in parts"


def _times(seen: Seen, bad: Tensor) -> str:
    """Return the time of the first bad example, for messages."""
    return f"{float(seen.batch.times.t[bad][0]):.6g}" if bool(bad.any()) else ""
