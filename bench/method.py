"""The contract between a method and the engine.

A method is a frozen pydantic model: its fields are its own options, its methods say what to train towards. It never
sees a device, a rank, a file or a step number, and draws no random numbers, so that methods can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.errors import ConfigError

Schedule = tuple[int, ...]


@dataclass(frozen=True)
class Phase:
    """One phase of a distillation: a sampler of ``start`` steps becomes one of ``end`` steps.

    Attributes:
        start: steps of the phase's teacher.
        end: steps of the phase's student; divides ``start``.
    """

    start: int
    end: int

    @property
    def group(self) -> int:
        """Teacher steps that one student step replaces."""
        return self.start // self.end


@dataclass(frozen=True)
class Times:
    """Per-sample times ``[B]``, float64 in [0, 1]: the draw, the teacher's next time, and the end of the jump."""

    t: Tensor
    t_next: Tensor
    t_end: Tensor


@dataclass(frozen=True)
class Batch:
    """What a method may look at to build its targets.

    Attributes:
        x_t: noisy images at ``times.t``, ``[B, C, H, W]``, float64.
        times: the drawn times.
        labels: class indices ``[B]`` or None.
        x0: the clean images, ``[B, C, H, W]``.
        noise: the noise of ``x_t = alpha x0 + sigma noise``.
        process: the diffusion process.
    """

    x_t: Tensor
    times: Times
    labels: Tensor | None
    x0: Tensor
    noise: Tensor
    process: Process


@dataclass(frozen=True)
class Nets:
    """The denoisers a target may be built from; calling one records no gradient.

    Attributes:
        teacher: the phase's teacher.
        self_teacher: the bias-corrected moving average of the student.
        frozen: the student as it is at this step.
    """

    teacher: Denoiser
    self_teacher: Denoiser
    frozen: Denoiser


@dataclass(frozen=True)
class Target:
    """What the student's x0 prediction is drawn to: ``x0`` ``[B, C, H, W]`` with loss weights ``weight`` ``[B]``."""

    x0: Tensor
    weight: Tensor


class Method(BaseModel):
    """Base of every method; subclass it in ``methods/`` or behind a ``tractbench.methods`` entry point.

    The subclass's pydantic fields are the method's options; each needs a description, which ``tractbench list methods
    --verbose`` shows.

    Class attributes:
        name: what ``--method`` takes.
        summary: one line for listings.
        processes: diffusion processes it is defined for, the default first.
        trains: False for methods that sample the teacher itself.
        self_teacher: whether targets use a moving average of the student, which the engine then keeps.
        defaults: run settings (fields of RunConfig) that this method changes.
        sampling_options: options that only sampling reads, so that another value needs no other student.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    summary: ClassVar[str]
    processes: ClassVar[tuple[str, ...]] = ("vp",)
    trains: ClassVar[bool] = True
    self_teacher: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, object]] = {}
    sampling_options: ClassVar[frozenset[str]] = frozenset()

    def default_schedule(self, nfe: int) -> Schedule:
        """Return the schedule that ends at ``nfe`` steps when the user gives none."""
        return ()

    def sampler(self) -> str:
        """Return the solver that samples what this method makes: ``ddim`` or ``heun``."""
        return "ddim"

    def teacher_sampler(self) -> str:
        """Return the solver whose steps are distilled: a perfect student ends where the teacher does under it."""
        return "ddim"

    def phases(self, schedule: Schedule) -> tuple[Phase, ...]:
        """Return the phases of a validated schedule; () means that nothing is trained."""
        return tuple(Phase(start, end) for start, end in pairwise(schedule))

    def times(self, u: Tensor, phase: Phase, progress: float) -> Times:
        """Draw times from uniforms ``u`` ``[B, 2]`` in [0, 1); ``progress`` is the share of the phase's images seen."""
        return group_times(u, phase)

    def target(self, batch: Batch, phase: Phase, nets: Nets) -> Target:
        """Return what the student should predict for the batch."""
        raise ConfigError(f"method '{self.name}' defines no target; implement target() or set trains = False")

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the distance ``[B]`` of prediction and target: squared L2 summed over pixels by default."""
        return (prediction - target).square().flatten(1).sum(1)


def group_times(u: Tensor, phase: Phase) -> Times:
    """Draw a student step, then a teacher step within its group (TRACT, section 3).

    A group's upper end i is uniform over the ``end`` student steps, k uniform over the ``group`` teacher steps in it;
    the teacher steps from i - k to i - k - 1 and the jump ends a whole group below i.

    Args:
        u: uniforms in [0, 1), ``[B, 2]``, float64.
        phase: the phase.
    """
    lower = torch.floor(u[:, 0] * phase.end)
    index = (lower + 1) * phase.group - torch.floor(u[:, 1] * phase.group)
    return Times(t=index / phase.start, t_next=(index - 1) / phase.start, t_end=lower / phase.end)


def loss_weight(process: Process, t: Tensor, kind: str) -> Tensor:
    """Return the weight of the x0 loss at ``t`` ``[B]`` (Salimans & Ho 2022, section 4).

    Args:
        process: the diffusion process.
        t: times ``[B]``.
        kind: ``truncated_snr`` for max(SNR, 1), ``snr`` for SNR, ``uniform`` for 1.
    """
    if kind == "uniform":
        return torch.ones_like(t)
    snr = torch.exp(process.log_snr(t))
    return snr.clamp(min=1.0) if kind == "truncated_snr" else snr
