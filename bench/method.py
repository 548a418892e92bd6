"""The contract between a method and the engine.

A method is a frozen pydantic model: its fields are its own options, its methods say what to train towards. It never
sees a device, a rank, a file or a step number, and draws no random numbers, so that methods can be compared in pairs.
Most methods define a schedule and a target; the rest is for those that need it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Self, get_origin

import torch
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler
from tractbench.errors import ConfigError
from tractbench.nets.distances import Distance, PublishedDistance, squared_distance

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
    """Per-sample times ``[B]``, float64 in [0, 1]: the draw, the teacher's next time, and the end of the jump.

    A method without a next time sets it to ``t``.
    """

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
    """What a loss may be built from; calling a denoiser records no gradient.

    Attributes:
        teacher: the phase's teacher; of a method with ``two_times`` it may be told where a jump ends like its students,
            although the first phase's does not use it.
        self_teacher: the bias-corrected moving average of the student.
        frozen: the student as it is at this step. ``torch.func.jvp`` goes through it. It computes what the student
            does: no network here has dropout, so there are no masks to share.
        modules: the method's own modules by name, in training; they record gradients.
        distances: the method's published distances by name.
    """

    teacher: Denoiser
    self_teacher: Denoiser
    frozen: Denoiser
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    distances: Mapping[str, Distance] = field(default_factory=dict)


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
        draws: uniforms that an example's times are made of.
        two_times: its students also take the end of the jump: ``denoise(x_t, t, labels, t_end)``.
        continuous: it trains at noise levels of any value, so that teachers which know a few are refused.
        any_nfe: one student serves every NFE, so that a schedule need not end there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    summary: ClassVar[str]
    processes: ClassVar[tuple[str, ...]] = ("vp",)
    trains: ClassVar[bool] = True
    self_teacher: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, object]] = {}
    sampling_options: ClassVar[frozenset[str]] = frozenset()
    draws: ClassVar[int] = 2
    two_times: ClassVar[bool] = False
    continuous: ClassVar[bool] = False
    any_nfe: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        """Take one value, or values with commas between, for an option that has several."""
        if not isinstance(given, dict):
            return given
        several = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is tuple}
        return {name: _separated(value) if name in several else value for name, value in given.items()}

    def default_schedule(self, nfe: int) -> Schedule:
        """Return the schedule when the user gives none: one that ends at ``nfe`` steps, or the same for any NFE."""
        return ()

    def sampler(self, nfe: int, process: Process) -> Sampler:
        """Return the sampler of what this method makes, of at most ``nfe`` evaluations: equal DDIM steps by default.

        Raises:
            ConfigError: the options make no sampler of so many evaluations.
        """
        return Sampler.equal(nfe)

    def as_trained(self) -> Self:
        """Return it with its sampling options as they are by default, which is all that training may know of them."""
        fields = type(self).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in self.sampling_options}
        return self.model_copy(update=defaults)

    def teacher_sampler(self) -> str:
        """Return the solver whose steps are distilled: a perfect student ends where the teacher does under it."""
        return "ddim"

    def phases(self, schedule: Schedule) -> tuple[Phase, ...]:
        """Return the phases of a validated schedule; () means that nothing is trained."""
        return tuple(Phase(start, end) for start, end in pairwise(schedule))

    def parameterise(self, network: nn.Module, process: Process) -> nn.Module:
        """Return the student's denoiser made of one of the teacher's kind, which may be changed: itself by default.

        It may replace the preconditioning or add modules, whose first weights are always the same and which draw no
        random number. It is called whenever there is to be a student: to be trained, and to load weights into.

        Args:
            network: a copy of the teacher, or a fresh denoiser of the data set's network that the run names.
            process: the diffusion process.
        """
        return network

    def modules(self, shape: tuple[int, int, int]) -> Mapping[str, nn.Module]:
        """Return further modules to be trained with the student, by name, such as a learnt weighting.

        They are built without global random numbers; one that has ``initialise(generator)``, as networks have, draws
        its weights there.

        Args:
            shape: (C, H, W).
        """
        return {}

    def distances(self, shape: tuple[int, int, int]) -> Mapping[str, PublishedDistance]:
        """Return distances of images whose networks are published and not trained, by name, such as LPIPS.

        Which ones, and their weights, follow from the options: they are no further part of a student's identity.

        Args:
            shape: (C, H, W).

        Raises:
            ConfigError: they do not take images of that shape.
        """
        return {}

    def times(self, u: Tensor, phase: Phase, progress: float, process: Process) -> Times:
        """Draw times from uniforms.

        Args:
            u: ``[B, draws]`` in [0, 1), float64.
            phase: the phase.
            progress: the share of the phase's steps that is done, in [0, 1).
            process: the diffusion process.
        """
        return group_times(u, phase)

    def target(self, batch: Batch, phase: Phase, progress: float, nets: Nets) -> Target:
        """Return what the student should predict for the batch; ``progress`` is the share of the phase that is done."""
        raise ConfigError(f"method '{self.name}' defines no target; implement target() or set trains = False")

    def objective(self, batch: Batch, phase: Phase, progress: float, nets: Nets, student: Denoiser) -> Tensor:
        """Return the loss of each example ``[B]``: weight times distance to the target by default.

        Args:
            batch: the examples.
            phase: the phase.
            progress: the share of the phase's steps that is done, in [0, 1).
            nets: networks without gradient, and the method's own modules.
            student: the denoiser being trained, which records gradients; it is called once.
        """
        with torch.no_grad():
            target = self.target(batch, phase, progress, nets)
        ends = (batch.times.t_end,) if self.two_times else ()
        prediction = student(batch.x_t, batch.times.t, batch.labels, *ends)
        distance = self.distance(prediction, target.x0.to(prediction.dtype))
        return target.weight.to(distance.dtype) * distance

    def distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the distance ``[B]`` of prediction and target: squared L2 summed over pixels by default."""
        return squared_distance(prediction, target)


def _separated(value: object) -> object:
    if isinstance(value, str):
        return [one.strip() for one in value.split(",") if one.strip()]
    return [value] if isinstance(value, int | float) else value


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
