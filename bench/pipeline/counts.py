"""What a network's passes take, counted on tensors without storage: operations, and bytes kept for the backward pass.

Nothing is allocated and nothing is computed, so that 300M parameters cost as little as 300.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from tractbench.config.fields import RunConfig
from tractbench.datasets.base import FULL, Dataset, NetworkPreset
from tractbench.diffusion.denoiser import CountingDenoiser
from tractbench.diffusion.processes import Process, per_sample
from tractbench.errors import TractbenchError
from tractbench.method import Batch, Method, Nets, Phase
from tractbench.nets.build import Argument, meta_network
from tractbench.nets.distances import stand_ins
from tractbench.teachers.card import TeacherCard, read_card
from tractbench.teachers.load import EXACT
from tractbench.teachers.published import published_teachers
from tractbench.training.modules import new_modules
from tractbench.training.passes import forward_mode
from tractbench.training.phases import plan_phases


@dataclass(frozen=True)
class Counts:
    """What an image costs a network; operations are those of products and convolutions, two a multiplication and sum.

    Attributes:
        parameters: of the network.
        forward: operations of a forward pass.
        backward: operations of the backward pass that follows it.
        activations: bytes kept for the backward pass in float32.
        activations_bf16: the same under autocast to bfloat16.
    """

    parameters: int = 0
    forward: int = 0
    backward: int = 0
    activations: int = 0
    activations_bf16: int = 0


CLOSED_FORM = Counts()
"""A closed form has no products to count."""


def count(preset: NetworkPreset | None) -> Counts:
    """Count a network's passes; None is a closed form."""
    if preset is None:
        return CLOSED_FORM
    return _count(preset.network, tuple(sorted(preset.arguments.items())))


@cache
def _count(name: str, arguments: tuple[tuple[str, Argument], ...]) -> Counts:
    known = dict(arguments)
    network = meta_network(name, known)
    with FlopCounterMode(display=False) as forward:
        output = _meta_pass(network, known, 1)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.backward(output.sum())
    kept = {
        bf16: [_kept(partial(_meta_pass, network, known, images), bf16) for images in (1, 2)] for bf16 in (False, True)
    }
    return Counts(
        parameters=sum(p.numel() for p in network.parameters()),
        forward=int(forward.get_total_flops()),
        backward=int(backward.get_total_flops()),
        # what one image more keeps: weights, and copies of them in bfloat16, are kept once
        activations=kept[False][1] - kept[False][0],
        activations_bf16=kept[True][1] - kept[True][0],
    )


def _meta_pass(network: nn.Module, arguments: Mapping[str, Argument], images: int) -> Tensor:
    """Return the meta tensor that a network gives for so many images."""
    size = int(str(arguments["size"]))
    x = torch.empty(images, int(str(arguments["channels"])), size, size, device="meta")
    labels = torch.empty(images, dtype=torch.int64, device="meta") if arguments.get("classes") else None
    output: Tensor = network(x, torch.empty(images, device="meta"), labels)
    return output


def _kept(forward: Callable[[], Tensor], bf16: bool = False) -> int:
    """Return the bytes that a forward pass keeps for the backward one; tensors that share storage count once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), _Kernels(bf16):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


LOWERED = frozenset({functional.conv2d, functional.conv_transpose2d, functional.linear, torch.matmul, torch.bmm})
RAISED = frozenset({functional.group_norm, functional.layer_norm, functional.softmax})


class _Kernels(TorchFunctionMode):
    """What a GPU would run: fused attention, which keeps no matrix of all pairs of pixels, and autocast to bfloat16.

    Autocast knows no meta tensors; ``LOWERED`` and ``RAISED`` are its lists (PyTorch, "Automatic Mixed Precision", CUDA
    ops that autocast to float16 and to float32), as far as the networks use them.
    """

    def __init__(self, bf16: bool) -> None:
        super().__init__()
        self._bf16 = bf16

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function on arguments cast as autocast would cast them."""
        attends = func is functional.scaled_dot_product_attention
        if self._bf16 and (attends or func in LOWERED):
            args = tuple(_cast(value, torch.bfloat16) for value in args)
            kwargs = {name: _cast(value, torch.bfloat16) for name, value in (kwargs or {}).items()}
        elif self._bf16 and func in RAISED:
            args = tuple(_cast(value, torch.float32) for value in args)
        if attends:
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args[:3])[0]
        return func(*args, **(kwargs or {}))


def _cast(value: object, dtype: torch.dtype) -> object:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def teacher_preset(config: RunConfig, dataset: Dataset) -> NetworkPreset | None:
    """Return the architecture of a run's teacher, from its card, from its recipe, or the data set's usual one.

    None is a closed form. No weights are read, and the teacher need not be on this machine.
    """
    if config.teacher == EXACT:
        return None
    try:
        card, _ = read_card(config.teacher, TeacherCard)
        return NetworkPreset(card.network, card.arguments, card.parameterisation)
    except TractbenchError:
        published = published_teachers().get(config.teacher)
    if published is not None:
        return NetworkPreset(published.network, published.arguments, published.parameterisation)
    for tier in (config.tier, FULL):
        if config.teacher == dataset.trained_teacher(config.process, tier):
            return dataset.network(dataset.recipe(config.process, tier).network, config.process)
    usual = (name for name, network in dataset.workload.networks.items() if config.process in network)
    return dataset.network(next(usual, ""), config.process)


def count_distances(method: Method, shape: tuple[int, int, int]) -> Counts:
    """Count what a method's published distances take, of an example: both images forward, and back to one of them."""
    found = CLOSED_FORM
    for distance in method.distances(shape).values():
        network = distance.untrained().requires_grad_(False).to("meta")

        def measured(images: int, network: nn.Module = network) -> Tensor:
            first, second = (torch.empty(images, *shape, device="meta", requires_grad=one) for one in (True, False))
            output: Tensor = network(first, second)
            return output

        with FlopCounterMode(display=False) as forward:
            output = measured(1)
        with FlopCounterMode(display=False) as backward:
            torch.autograd.backward(output.sum())
        one, two = (_kept(partial(measured, images)) for images in (1, 2))
        found = Counts(
            forward=found.forward + int(forward.get_total_flops()),
            backward=found.backward + int(backward.get_total_flops()),
            activations=found.activations + two - one,
            activations_bf16=found.activations_bf16 + two - one,  # losses stay in float32
        )
    return found


@dataclass(frozen=True)
class Passes:
    """Forward passes without gradient that a method's loss of one batch takes, by what is asked."""

    teacher: int
    self_teacher: int
    frozen: int


def count_passes(method: Method, process: Process, shape: tuple[int, int, int], phase: Phase) -> Passes:
    """Count what a method asks of its networks for a loss, by asking it with networks that only count."""

    def zero(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        return torch.zeros_like(x_t)

    def derived(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        if forward_mode(x_t, t, *t_end):
            frozen.evaluations += 1  # a derivative costs what the pass itself does
        return frozen(x_t, t, labels, *t_end)

    teacher, self_teacher, frozen = (CountingDenoiser(zero) for _ in range(3))
    times = method.times(torch.full((2, method.draws), 0.5, dtype=torch.float64), phase, 0.0, process)
    x0 = torch.zeros(2, *shape)
    x_t = per_sample(process.sigma(times.t), x0) * torch.ones_like(x0)
    labels = torch.zeros(2, dtype=torch.int64)
    batch = Batch(x_t=x_t, times=times, labels=labels, x0=x0, noise=torch.ones_like(x0), process=process)
    modules, distances = dict(new_modules(method, shape, 0).items()), stand_ins(method.distances(shape))
    nets = Nets(teacher, self_teacher, derived, modules, distances)
    with torch.no_grad():
        if type(method).objective is Method.objective:  # its distance may be a network's, which is not asked here
            method.target(batch, phase, 0.0, nets)
        else:
            method.objective(batch, phase, 0.0, nets, zero)
    return Passes(teacher.evaluations, self_teacher.evaluations, frozen.evaluations)


@dataclass(frozen=True)
class PhaseWork:
    """What a phase takes.

    Attributes:
        phase: the phase.
        images: training images.
        operations: of one of them.
        student: what the network being trained costs.
    """

    phase: Phase
    images: int
    operations: int
    student: Counts


def count_phases(
    config: RunConfig, method: Method, dataset: Dataset, process: Process, teacher: NetworkPreset | None
) -> tuple[PhaseWork, ...]:
    """Count the training of a run, a phase at a time; () where nothing is trained."""
    if not method.trains:
        return ()
    taught, beside, found = count(teacher), count_distances(method, dataset.shape), list[PhaseWork]()
    for plan in plan_phases(config, method.phases(config.schedule)):
        student = count(dataset.network(plan.network, config.process) if plan.network else teacher)
        if found and plan.network is None:
            student = found[-1].student
        asked = count_passes(method, process, dataset.shape, plan.phase)
        operations = asked.teacher * taught.forward + student.forward + student.backward
        operations += (asked.self_teacher + asked.frozen) * student.forward
        operations += beside.forward + beside.backward
        found.append(PhaseWork(plan.phase, plan.steps * config.batch, operations, student))
        taught = student
    return tuple(found)
