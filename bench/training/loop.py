"""The one training loop: a method's phases, one after the other, on one student."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tractbench.config.fields import RunConfig
from tractbench.diffusion.denoiser import Denoiser
from tractbench.diffusion.processes import Process, per_sample
from tractbench.errors import InterruptedRunError, RunFailedError
from tractbench.io.tensors import load_tensors, save_tensors
from tractbench.method import Batch, Method, Nets, Phase
from tractbench.progress import Progress
from tractbench.seeds import generator
from tractbench.training.ema import BiasCorrectedEMA, LongEMA, load_parameters
from tractbench.training.phases import PhasePlan, plan_phases
from tractbench.training.state import load_optimiser, optimiser_tensors

LOG_EVERY = 20
CHECKPOINT_EVERY = 500
INFINITE_GRADIENT = 1e5


@dataclass(frozen=True)
class LossPoint:
    """Mean loss over the steps up to and including ``step``."""

    step: int
    phase: int
    images: int
    loss: float


@dataclass(frozen=True)
class Distilled:
    """A trained student.

    Attributes:
        student: the inference average, in the student's dtype, without gradients.
        losses: the loss curve.
        distillation_errors: what the run was asked to measure at the end of each phase.
        nonfinite_gradients: entries of gradients that were replaced.
        steps: optimiser steps.
        images: training images really seen.
        seconds: time spent training, over all sessions.
    """

    student: nn.Module
    losses: tuple[LossPoint, ...]
    distillation_errors: tuple[float, ...]
    nonfinite_gradients: int
    steps: int
    images: int
    seconds: float


class Distillation:
    """The state of a distillation between two steps; it can be saved at any of them and resumed to the same bits.

    Args:
        config: the run.
        method: its method.
        process: the diffusion process.
        teacher: the denoiser to distil; it is left unchanged.
        images: training images ``[N, C, H, W]``, as the data set keeps them.
        decode: makes them float32 in [-1, 1]; only what a step draws is decoded.
        labels: their classes ``[N]``, for class-conditional networks.
        flips: mirror each drawn image with probability one half.
        new_network: makes a denoiser of the named network, for students that do not start from the teacher's weights.
        device: where the networks run; random numbers are always drawn on the CPU.
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
        new_network: Callable[[str], nn.Module] | None = None,
        device: str = "cpu",
    ) -> None:
        self.config, self.method, self.process = config, method, process
        self.images, self._decode, self.labels, self.flips, self.device = images, decode, labels, flips, device
        self._new_network = new_network
        self._original = teacher
        self.plans = plan_phases(config, method.phases(config.schedule))
        self.total = sum(plan.steps for plan in self.plans)
        self.step = 0
        self.seconds = 0.0
        self.losses: list[LossPoint] = []
        self.distillation_errors: list[float] = []
        self._nonfinite = torch.zeros((), dtype=torch.int64, device=device)
        self._recent: list[Tensor] = []
        self.teacher = self._teacher_of(0)
        self._set_student(self._network_of(0))

    @property
    def plan(self) -> PhasePlan:
        """The plan of the phase that the next step belongs to."""
        return self.plans[self._phase_of(self.step)]

    def _phase_of(self, step: int) -> int:
        return max((index for index, plan in enumerate(self.plans) if plan.first_step <= step), default=0)

    def _network_of(self, index: int) -> nn.Module:
        """Return a phase's student network before it learnt anything in it."""
        name = self.plans[index].network
        if name is not None and self._new_network is not None:
            return self._new_network(name).to(self.device)
        if not isinstance(self._original, nn.Module):
            raise TypeError(
                "a teacher that is no network needs a first phase that repeats its steps, and a student network"
            )
        return copy.deepcopy(self._original).to(self.device)

    def _teacher_of(self, index: int) -> Denoiser:
        """Return a denoiser of the shape of a phase's teacher: the original one, or the last phase's student."""
        if index > 0:
            return self._network_of(index - 1).requires_grad_(False).eval()
        if isinstance(self._original, nn.Module):
            return copy.deepcopy(self._original).to(self.device).requires_grad_(False).eval()
        return self._original

    def _set_student(self, network: nn.Module) -> None:
        """Start from a network: fresh averages and a fresh optimiser."""
        self.student = network.requires_grad_(True).train()
        self._parameters = list(self.student.parameters())
        self.inference = LongEMA(self.student, self.plan.momentum)
        self._reset_learning()

    def _reset_learning(self) -> None:
        self.self_teacher = BiasCorrectedEMA(self.student, self.config.mu_s) if self.method.self_teacher else None
        self.optimiser = torch.optim.Adam(self._parameters, lr=self.config.lr, betas=(0.9, 0.999), fused=True)

    def draw(self, phase: Phase, progress: float) -> Batch:
        """Draw the global batch of the current step; it depends on the training seed and the step only."""
        config, random = self.config, generator("train", self.config.seed, self.step)
        index = torch.randint(len(self.images), (config.batch,), generator=random)
        u = torch.rand((config.batch, 2), dtype=torch.float64, generator=random)
        noise = torch.randn((config.batch, *self.images.shape[1:]), generator=random)
        x0 = self._decode(self.images.index_select(0, index))
        if self.flips:
            mirrored = torch.rand(config.batch, generator=random) < 0.5
            x0 = torch.where(per_sample(mirrored, x0), x0.flip(-1), x0)
        labels = self.labels[index].to(self.device) if self.labels is not None else None
        u, noise, x0 = u.to(self.device), noise.to(self.device), x0.to(self.device)
        times = self.method.times(u, phase, progress)
        alpha, sigma = self.process.alpha(times.t), self.process.sigma(times.t)
        x_t = per_sample(alpha, x0) * x0 + per_sample(sigma, x0) * noise
        return Batch(x_t=x_t, times=times, labels=labels, x0=x0, noise=noise, process=self.process)

    def train_step(self) -> None:
        """Take one optimiser step, starting its phase first if it is the phase's first."""
        plan = self.plan
        done = self.step - plan.first_step
        if done == 0:
            self._start_phase(plan)
        batch = self.draw(plan.phase, done / plan.steps)
        with torch.no_grad():
            target = self.method.target(batch, plan.phase, self._nets())
        prediction = self.student(batch.x_t, batch.times.t, batch.labels)
        distance = self.method.distance(prediction, target.x0.to(prediction.dtype))
        loss = (target.weight.to(distance.dtype) * distance).mean()

        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self._mend_gradients()
        self._set_learning_rate(done / plan.steps)
        self.optimiser.step()
        if self.self_teacher is not None:
            self.self_teacher.update(self._parameters)
        self.inference.update(self._parameters)
        self.step += 1
        self._log(plan, loss.detach())

    def _mend_gradients(self) -> None:
        if self.config.gradients == "clip_norm":
            torch.nn.utils.clip_grad_norm_(self._parameters, self.config.clip_norm)
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all()):
            for gradient in gradients:
                self._nonfinite += gradient.isfinite().logical_not().sum()
                gradient.nan_to_num_(nan=0.0, posinf=INFINITE_GRADIENT, neginf=-INFINITE_GRADIENT)

    def _set_learning_rate(self, progress: float) -> None:
        rate = self.config.lr
        if self.config.lr_schedule == "linear":
            rate *= 1 - progress
        if self.config.warmup:
            rate *= min(1.0, (self.step + 1) * self.config.batch / self.config.warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _nets(self) -> Nets:
        self_teacher: Denoiser = self.self_teacher.module if self.self_teacher is not None else _no_self_teacher
        return Nets(teacher=self.teacher, self_teacher=self_teacher, frozen=_without_gradient(self.student))

    def _start_phase(self, plan: PhasePlan) -> None:
        """Make the last phase's inference average the teacher, and the student what ``phase_start`` says."""
        index = self.plans.index(plan)
        if index > 0:
            self.teacher = self._inference_network()
            if plan.network != self.plans[index - 1].network:
                self._set_student(self._network_of(index))
            elif self.config.phase_start == "from_teacher":
                load_parameters(self.student, dict(self.teacher.named_parameters()))
                self._reset_learning()
            if self.config.ema_reset == "phase":
                self.inference.reset()
        self.inference.momentum = plan.momentum

    def _inference_network(self) -> nn.Module:
        """Return the inference average as a network in the student's dtype, without gradients."""
        network = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.inference.copy_to(network)
        return network

    def _log(self, plan: PhasePlan, loss: Tensor) -> None:
        """Collect losses; at every LOG_EVERY steps and a phase's end, record the mean and stop if it is not finite."""
        self._recent.append(loss)
        if self.step % LOG_EVERY and self.step != plan.first_step + plan.steps:
            return
        mean = float(torch.stack(self._recent).double().mean())
        self._recent.clear()
        phase = self.plans.index(plan)
        if not math.isfinite(mean):
            raise RunFailedError(
                f"loss is {mean} at step {self.step} of {self.total} (phase {phase + 1}); "
                f"lower --lr (now {self.config.lr:g})"
            )
        self.losses.append(LossPoint(self.step, phase, self.step * self.config.batch, mean))

    def measure(self, error: Callable[[nn.Module, Phase], float]) -> None:
        """Record an error of the inference average at the end of a phase; does nothing in the middle of one."""
        plan = self.plans[self._phase_of(self.step - 1)]
        if self.step == plan.first_step + plan.steps:
            self.distillation_errors.append(error(self._inference_network(), plan.phase))

    def save(self, path: Path, student: str) -> None:
        """Write everything that the next steps depend on; ``student`` is the id that :meth:`resume` asks for."""
        tensors = _prefixed("student.", self.student)
        tensors |= _prefixed("recent.", self.inference.recent) | _prefixed("folded.", self.inference.folded)
        if isinstance(self.teacher, nn.Module):
            tensors |= _prefixed("teacher.", self.teacher)
        if self.self_teacher is not None:
            tensors |= _prefixed("self_teacher.", self.self_teacher.module)
        tensors |= optimiser_tensors(self.optimiser)
        if self._recent:
            tensors["recent_losses"] = torch.stack(self._recent)
        header: dict[str, Any] = {
            "student": student,
            "step": self.step,
            "seconds": self.seconds,
            "inference_updates": self.inference.updates,
            "inference_share": self.inference.share,
            "self_teacher_updates": self.self_teacher.updates if self.self_teacher is not None else 0,
            "nonfinite_gradients": int(self._nonfinite),
            "distillation_errors": self.distillation_errors,
            "losses": [[p.step, p.phase, p.images, p.loss] for p in self.losses],
        }
        save_tensors(path, tensors, header)

    def resume(self, path: Path, student: str) -> bool:
        """Restore what :meth:`save` wrote; return False if the file belongs to another student."""
        tensors, header = load_tensors(path, "delete it to train from the start")
        if header["student"] != student:
            return False

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        phase = self._phase_of(header["step"] - 1)
        self.teacher = self._teacher_of(phase)
        self._set_student(self._network_of(phase))
        self.student.load_state_dict(part("student."))
        if isinstance(self.teacher, nn.Module):
            self.teacher.load_state_dict(part("teacher."))
        self.inference.recent.load_state_dict(part("recent."))
        self.inference.folded.load_state_dict(part("folded."))
        self.inference.updates, self.inference.share = header["inference_updates"], header["inference_share"]
        self.inference.momentum = self.plans[phase].momentum
        if self.self_teacher is not None:
            self.self_teacher.module.load_state_dict(part("self_teacher."))
            self.self_teacher.updates = header["self_teacher_updates"]
        load_optimiser(self.optimiser, tensors)
        self._recent = list(tensors["recent_losses"].to(self.device)) if "recent_losses" in tensors else []
        self._nonfinite.fill_(header["nonfinite_gradients"])
        self.distillation_errors = list(header["distillation_errors"])
        self.losses = [LossPoint(*point) for point in header["losses"]]
        self.step, self.seconds = header["step"], header["seconds"]
        return True

    def result(self) -> Distilled:
        """Return the inference average as a network, with what was spent on it."""
        return Distilled(
            student=self._inference_network(),
            losses=tuple(self.losses),
            distillation_errors=tuple(self.distillation_errors),
            nonfinite_gradients=int(self._nonfinite),
            steps=self.step,
            images=self.step * self.config.batch,
            seconds=self.seconds,
        )


def _prefixed(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in network.state_dict().items()}


def _no_self_teacher(x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    raise TypeError("this method keeps no self-teacher; set self_teacher = True on its class")


def _without_gradient(network: nn.Module) -> Denoiser:
    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            x0: Tensor = network(x_t, t, labels)
        return x0

    return denoise


def distill(
    run: Distillation,
    student: str,
    checkpoint: Path,
    progress: Progress,
    *,
    stop: Callable[[], bool] = lambda: False,
    error: Callable[[nn.Module, Phase], float] | None = None,
) -> Distilled:
    """Train to the end, from the checkpoint if there is one of this student.

    Args:
        run: a fresh distillation.
        student: the student's id.
        checkpoint: where checkpoints go, every CHECKPOINT_EVERY steps and when stopped.
        progress: draws the bar.
        stop: asked after every step; True saves a checkpoint and stops.
        error: measured on the inference average at the end of each phase.

    Raises:
        InterruptedRunError: ``stop`` returned True.
        RunFailedError: the loss became infinite or NaN.
    """
    if checkpoint.exists() and run.resume(checkpoint, student):
        progress.message(f"resuming at step {run.step} of {run.total}")
    save = partial(run.save, checkpoint, student)
    with progress.task("training", run.total, "step", run.step) as task:
        while run.step < run.total:
            started = time.perf_counter()
            run.train_step()
            run.seconds += time.perf_counter() - started
            if error is not None:
                run.measure(error)
            note = ""
            if run.step % LOG_EVERY == 0 or run.step == run.total:
                note = f"phase {run.losses[-1].phase + 1}/{len(run.plans)}  loss {run.losses[-1].loss:.4g}"
            task.advance(1, note)
            stopping = run.step < run.total and stop()
            if stopping or run.step % CHECKPOINT_EVERY == 0:
                save()
            if stopping:
                raise InterruptedRunError(
                    f"stopped at training step {run.step} of {run.total}; kept: {checkpoint}; "
                    "the same command goes on from there"
                )
    return run.result()
