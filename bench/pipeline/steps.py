"""A training step taken apart: its floor, which is its network passes alone, and each of its parts alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser
from tractbench.method import Nets, Times
from tractbench.pipeline.counts import Passes, count_passes
from tractbench.pipeline.timing import Work
from tractbench.training.distillation import LOG_EVERY, Distillation
from tractbench.training.numerics import in_precision, precision
from tractbench.training.optimiser import mend_gradients, new_optimiser


class StepParts:
    """The parts of a distillation's step, each as work of its own on the same networks, batch and precision.

    Args:
        run: a distillation, at the step to take apart; at least one step is taken.
    """

    def __init__(self, run: Distillation) -> None:
        self.run = run
        self.phase = run.plan.phase
        run.train_step()  # starts the phase, fills gradients and the optimiser's moments
        self._parameters = list(run.student.parameters())
        with precision(run.config.precision, run.device):
            self._examples = run.batches.examples(run.batches.draw(run.step))
            self._batch = run.draw(self.phase, 0.0)
        self.passes: Passes = count_passes(run.method, run.process, run.batches.shape, self.phase)
        self._losses = [torch.zeros((), device=run.device) for _ in range(LOG_EVERY)]
        self._replaced = torch.zeros((), dtype=torch.int64, device=run.device)
        x0 = self._batch.x_t.to(self._parameters[0].dtype)
        self._ready: Denoiser = lambda x_t, t, labels=None, *t_end: x0

    def floor(self, *, updating: bool = False) -> Work:
        """Return the step's network passes alone: those of its target without gradient, one forward and backward.

        Args:
            updating: right after them, limit the gradients and take the optimiser's step, as any training does.
        """
        run, batch = self.run, self._batch
        network = copy.deepcopy(run.student)
        average = network if run.self_teacher is None else copy.deepcopy(run.self_teacher.module)
        ends = (batch.times.t_end,) if run.method.two_times else ()
        first = run.plan.first_step == 0  # later phases' teachers are students
        asked: list[tuple[Denoiser, tuple[Tensor, ...]]] = [(run.teacher, () if first else ends)] * self.passes.teacher
        asked += [(average, ends)] * self.passes.self_teacher + [(network, ends)] * self.passes.frozen
        frozen = [(in_precision(denoiser, run.config.precision, run.device), given) for denoiser, given in asked]
        student = in_precision(network, run.config.precision, run.device)
        parameters = list(network.parameters())
        optimiser = new_optimiser(run.config, parameters) if updating else None

        def work() -> None:
            with precision(run.config.precision, run.device):
                with torch.no_grad():
                    for denoiser, given in frozen:
                        denoiser(batch.x_t, batch.times.t, batch.labels, *given)
                network.zero_grad()
                torch.autograd.backward(student(batch.x_t, batch.times.t, batch.labels, *ends).square().sum())
                if optimiser is not None:
                    mend_gradients(run.config, parameters, self._replaced)
                    optimiser.step()

        return work

    def parts(self) -> dict[str, Work]:
        """Return what a step does beside its passes, by name."""
        run = self.run
        works: dict[str, Work] = {
            "draw": lambda: run.batches.examples(run.batches.draw(run.step)),
            "copy": lambda: run.batches.noisy(self._examples, run.process, self._times),
            "targets": self._target,
            "gradients": lambda: mend_gradients(run.config, run.trained, self._replaced),
            "optimiser": self._optimise,
            "averages": self._average,
            "logging": lambda: float(torch.stack(self._losses).double().mean()),  # of LOG_EVERY steps
        }
        return works

    def _times(self, u: Tensor) -> Times:
        return self.run.method.times(u, self.phase, 0.0, self.run.process)

    @torch.no_grad()
    def _target(self) -> Tensor:
        """Form target and loss with networks that answer at once."""
        nets = Nets(self._ready, self._ready, self._ready, dict(self.run.modules.items()), self.run.distances)
        return self.run.method.objective(self._batch, self.phase, 0.0, nets, self._ready).mean()

    def _optimise(self) -> None:
        self.run.optimiser.step()

    def _average(self) -> None:
        if self.run.self_teacher is not None:
            self.run.self_teacher.update(self._parameters)
        self.run.inference.update(self._parameters)
