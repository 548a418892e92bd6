"""A method's phases, one after the other, on one student: a training step and the state between two."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tractbench.config.fields import RunConfig
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process
from tractbench.errors import RunFailedError
from tractbench.method import Batch, Method, Nets, Phase
from tractbench.nets.distances import Distance
from tractbench.training.ahead import Ahead
from tractbench.training.batches import Batches, Examples
from tractbench.training.ema import BiasCorrectedEMA, LongEMA, load_parameters
from tractbench.training.modules import new_modules
from tractbench.training.numerics import precision
from tractbench.training.optimiser import learning_rate, mend_gradients, new_optimiser
from tractbench.training.parallel import ALONE, Group
from tractbench.training.passes import Passes, no_self_teacher
from tractbench.training.phases import PhasePlan, phase_at, plan_phases
from tractbench.training.state import LossPoint, Numbers, State, collect, spread

LOG_EVERY = 20


class Distillation:
    """The state of a distillation between two steps; it can be saved at any of them and resumed to the same bits.

    Args:
        config: the run.
        method: its method.
        process: the diffusion process.
        teacher: the denoiser to distil, on the device; a network without gradients and in evaluation mode. The first
            phase's teacher is this very one, so it must not be changed; it is copied only to become a student.
        images: training images ``[N, C, H, W]``, as the data set keeps them.
        decode: makes them float32 in [-1, 1]; only what a step draws is decoded.
        labels: their classes ``[N]``, for class-conditional networks.
        flips: mirror each drawn image with probability one half.
        distances: the method's published distances, with their weights.
        new_network: makes a denoiser of the named network, for students that do not start from the teacher's weights.
        device: where the networks run; random numbers are always drawn on the CPU.
        group: the processes that share out each batch; every one of them keeps the same student.
        micro_batch: examples whose passes run together, fewer than a process's share to save memory; gradients are
            summed over them. None for all.
        compiling: compile the networks' passes.

    Raises:
        ValueError: the teacher is in training mode or has gradients.
        TypeError: the teacher is no network and the first phase names none for its student.
    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        process: Process,
        teacher: Denoiser,
        images: Tensor,
        *,
        decode: Callable[[Tensor], Tensor] = lambda images: images,
        labels: Tensor | None = None,
        flips: bool = False,
        distances: Mapping[str, nn.Module] | None = None,
        new_network: Callable[[str], nn.Module] | None = None,
        device: str = "cpu",
        group: Group = ALONE,
        micro_batch: int | None = None,
        compiling: bool = False,
    ) -> None:
        if isinstance(teacher, nn.Module) and (teacher.training or any(p.requires_grad for p in teacher.parameters())):
            raise ValueError("a teacher must be frozen: teacher.requires_grad_(False).eval()")
        self.config, self.method, self.process, self.device = config, method, process, device
        self.group, self._micro_batch = group, micro_batch
        # gradients summed over several passes are averaged after the last one: a replica counts on a single pass
        self._calls = Passes(config.precision, device, compiling, group if micro_batch is None else ALONE)
        self.batches = Batches(config.seed, config.batch, images, decode, labels, flips, device, method.draws)
        self.distances: dict[str, Distance] = {
            name: network.requires_grad_(False).eval().to(device) for name, network in (distances or {}).items()
        }
        self._new_network = new_network
        self._original = teacher
        self.plans = plan_phases(config, method.phases(config.schedule))
        self.total = sum(plan.steps for plan in self.plans)
        self._share = self.batches.share(self.group.rank, self.group.size)
        self._ahead = Ahead(self._examples, self.total, device)
        self.step = 0
        self.seconds = 0.0
        self.losses: list[LossPoint] = []
        self.distillation_errors: list[float] = []
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)
        self._recent: list[Tensor] = []
        self._norm: Tensor | None = None
        self._set_teacher(teacher)
        self._set_student(self._network_of(0))

    @property
    def plan(self) -> PhasePlan:
        """The plan of the phase that the next step belongs to."""
        return self.plans[phase_at(self.plans, self.step)]

    @property
    def nonfinite_gradients(self) -> int:
        """Entries of gradients that were replaced so far; asking waits for the device."""
        return int(self._nonfinite)

    def gradient_norm(self) -> float:
        """Return the norm of the last step's gradient before it was limited; asking waits for the device."""
        if self._norm is not None:
            return float(self._norm)
        gradients = [p.grad for p in self.trained if p.grad is not None]
        return float(torch.stack(torch._foreach_norm(gradients)).norm())

    def _network_of(self, index: int) -> nn.Module:
        """Return a phase's student network before it learnt anything in it."""
        name = self.plans[index].network
        if name is not None and self._new_network is not None:
            network = self._new_network(name)
        elif isinstance(self._original, nn.Module):
            network = copy.deepcopy(self._original)
        else:
            raise TypeError(
                "a teacher that is no network needs a first phase that repeats its steps, and a student network"
            )
        return self.method.parameterise(network, self.process).to(self.device)

    def _teacher_of(self, index: int) -> Denoiser:
        """Return the original teacher, or, to load a later phase's into, a network of the last phase's shape."""
        return self._network_of(index - 1).requires_grad_(False).eval() if index > 0 else self._original

    def _set_teacher(self, teacher: Denoiser) -> None:
        self.teacher = teacher
        self._teacher_pass = self._calls.frozen(teacher, told=teacher is not self._original)

    def _set_student(self, network: nn.Module) -> None:
        """Start from a network: fresh averages, a fresh optimiser, and the method's modules as they begin."""
        self.student = network.requires_grad_(True).train()
        self._parameters = list(self.student.parameters())
        self._passes = self._calls.student(self.student)
        self.inference = LongEMA(self.student, self.plan.momentum)
        self._reset_learning()

    def _reset_learning(self) -> None:
        self.self_teacher = BiasCorrectedEMA(self.student, self.config.mu_s) if self.method.self_teacher else None
        average = self.self_teacher
        self._self_teacher_pass = self._calls.frozen(average.module) if average is not None else no_self_teacher
        self.modules = new_modules(self.method, self.batches.shape, self.config.seed).to(self.device)
        self.trained = [*self._parameters, *self.modules.parameters()]
        self.optimiser = new_optimiser(self.config, self.trained)

    def draw(self, phase: Phase, progress: float) -> Batch:
        """Make the global batch of the current step; its random numbers depend on the training seed and the step."""
        return self._noisy(self.batches.examples(self.batches.draw(self.step)), phase, progress)

    def _examples(self, step: int) -> Examples:
        """Return this process's share of a step's examples, one of no weight if it has none."""
        blocks = self._share or range(1)
        draws = self.batches.draw(step, blocks)
        return self.batches.examples(draws if self._share else draws.first(1))

    def _noisy(self, examples: Examples, phase: Phase, progress: float) -> Batch:
        return self.batches.noisy(examples, self.process, lambda u: self.method.times(u, phase, progress, self.process))

    def train_step(self) -> None:
        """Take one optimiser step, starting its phase first if it is the phase's first.

        Raises:
            RunFailedError: the loss became infinite or NaN.
        """
        with precision(self.config.precision, self.device):
            self._train_step()

    def _train_step(self) -> None:
        plan = self.plan
        done = self.step - plan.first_step
        if done == 0:
            self._start_phase(plan)
        progress = done / plan.steps
        self.optimiser.zero_grad()
        loss = self._backward(self._ahead.take(self.step), plan.phase, progress)
        self._norm = mend_gradients(self.config, self.trained, self._nonfinite)
        self.optimiser.rate = learning_rate(self.config, self.step, progress)
        self.optimiser.step()
        if self.self_teacher is not None:
            self.self_teacher.update(self._parameters)
        self.inference.update(self._parameters)
        self.step += 1
        self._log(plan, loss)

    def _backward(self, examples: Examples, phase: Phase, progress: float) -> Tensor:
        """Leave the gradient of the global batch's loss, and return this process's part of that loss."""
        modules = dict(self.modules.items())
        nets = Nets(self._teacher_pass, self._self_teacher_pass, self._passes.frozen, modules, self.distances)
        total = torch.zeros((), device=self.device)
        for piece in examples.split(self._micro_batch or len(examples.x0)):
            batch = self._noisy(piece, phase, progress)
            summed = self.method.objective(batch, phase, progress, nets, self._passes.recording).sum()
            loss = summed / self.config.batch if self._share else summed * 0
            # the processes take the mean of their gradients, so each part counts as often as there are processes
            torch.autograd.backward(loss if self.group.size == 1 else loss * self.group.size)
            total = total + loss.detach()
        self.group.average_gradients(self.modules.parameters() if self._micro_batch is None else self.trained)
        return total

    def _start_phase(self, plan: PhasePlan) -> None:
        """Make the last phase's inference average the teacher, and the student what ``phase_start`` says."""
        index = self.plans.index(plan)
        if index > 0:
            average = self.averaged()
            self._set_teacher(average)
            if plan.network != self.plans[index - 1].network:
                self._set_student(self._network_of(index))
            elif self.config.phase_start == "from_teacher":
                load_parameters(self.student, dict(average.named_parameters()))
                self._reset_learning()
            if self.config.ema_reset == "phase":
                self.inference.reset()
        self.inference.momentum = plan.momentum

    def averaged(self) -> nn.Module:
        """Return the inference average as a network in the student's dtype, without gradients."""
        network = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.inference.copy_to(network)
        return network

    def _log(self, plan: PhasePlan, loss: Tensor) -> None:
        """Collect losses; at every LOG_EVERY steps and a phase's end, record the mean and stop if it is not finite."""
        self._recent.append(loss)
        if self.step % LOG_EVERY and self.step != plan.first_step + plan.steps:
            return
        mean = float(self._global_losses().double().mean())
        self._recent.clear()
        phase = self.plans.index(plan)
        if not math.isfinite(mean):
            raise RunFailedError(
                f"diverged: loss is {mean} at step {self.step} of {self.total} (phase {phase + 1}); "
                f"lower --lr (now {self.config.lr:g})"
            )
        self.losses.append(LossPoint(self.step, phase, self.step * self.config.batch, mean))

    def _global_losses(self) -> Tensor:
        """Return the losses of the global batches since the last mean, of which each process has a part."""
        losses = torch.stack(self._recent)
        self.group.sum_([losses])
        return losses

    def measure(self, error: Callable[[nn.Module, Phase], float]) -> None:
        """Record an error of the inference average at the end of a phase; does nothing in the middle of one."""
        plan = self.plans[phase_at(self.plans, self.step - 1)]
        if self.step == plan.first_step + plan.steps:
            self.distillation_errors.append(error(self.averaged(), plan.phase))

    def state(self) -> State:
        """Return everything that the next steps depend on; all processes of a group must ask."""
        tensors = collect(self._modules(phase_at(self.plans, self.step - 1)), self.optimiser)
        if self._recent:
            tensors["recent_losses"] = self._global_losses()
        numbers = Numbers(
            step=self.step,
            seconds=self.seconds,
            inference_updates=self.inference.updates,
            inference_share=self.inference.share,
            self_teacher_updates=self.self_teacher.updates if self.self_teacher is not None else 0,
            nonfinite_gradients=self.nonfinite_gradients,
            distillation_errors=tuple(self.distillation_errors),
            losses=tuple(self.losses),
        )
        return State(tensors, numbers)

    def restore(self, state: State) -> None:
        """Go on from what :meth:`state` returned; this one must be of the same run."""
        numbers = state.numbers
        phase = phase_at(self.plans, numbers.step - 1)
        self._set_teacher(self._teacher_of(phase))
        self._set_student(self._network_of(phase))
        spread(state.tensors, self._modules(phase), self.optimiser)
        self.inference.updates, self.inference.share = numbers.inference_updates, numbers.inference_share
        self.inference.momentum = self.plans[phase].momentum
        if self.self_teacher is not None:
            self.self_teacher.updates = numbers.self_teacher_updates
        recent = state.tensors.get("recent_losses")
        held = recent if recent is None or self.group.is_main else torch.zeros_like(recent)
        self._recent = list(held.to(self.device)) if held is not None else []
        self._nonfinite.fill_(numbers.nonfinite_gradients)
        self.distillation_errors, self.losses = list(numbers.distillation_errors), list(numbers.losses)
        self.step, self.seconds = numbers.step, numbers.seconds

    def close(self) -> None:
        """Stop making batches ahead; no step can be taken after it."""
        self._ahead.close()

    def _modules(self, phase: int) -> dict[str, nn.Module]:
        """Return what changes in training by name; the original teacher does not and is not saved."""
        modules = {"student": self.student, "recent": self.inference.recent, "folded": self.inference.folded}
        if self.self_teacher is not None:
            modules["self_teacher"] = self.self_teacher.module
        if len(self.modules):
            modules["modules"] = self.modules
        if phase > 0 and isinstance(self.teacher, nn.Module):
            modules["teacher"] = self.teacher
        return modules
