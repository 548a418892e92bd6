"""A run's sampler as numbers, read off the run's own denoiser and solver by asking them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tractbench.diffusion.denoiser import Denoiser, SigmaDenoiser, X0Denoiser
from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import ddim_step, heun_step, renoise
from tractbench.errors import ConfigError
from tractbench.export.loop import Evaluation


@dataclass(frozen=True)
class Recipe:
    """All of a sampler but its network.

    Attributes:
        shape: (C, H, W).
        classes: number of classes; 0 for none.
        prior_std: standard deviation of the noise that it starts from.
        evaluations: what it does with each evaluation of the network.
    """

    shape: tuple[int, int, int]
    classes: int
    prior_std: float
    evaluations: tuple[Evaluation, ...]

    @property
    def fresh(self) -> int:
        """How many times fresh noise is drawn after the first."""
        return sum(one["fresh"] is not None for one in self.evaluations)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"shape": list(self.shape), "classes": self.classes, "prior_std": self.prior_std,
                "fresh_noises": self.fresh, "evaluations": list(self.evaluations)}  # fmt: skip


def inner_network(denoiser: Denoiser) -> nn.Module:
    """Return the network that a denoiser surrounds with its coefficients.

    Raises:
        ConfigError: it is a closed form, or something else than what this package makes of networks.
    """
    if not isinstance(denoiser, nn.Module):
        raise ConfigError("the run samples a closed form, which has no weights to export; choose a run that trained")
    found = [module for module in denoiser.modules() if isinstance(module, (X0Denoiser, SigmaDenoiser))]
    if len(found) != 1:
        raise ConfigError(
            f"a {type(denoiser).__name__} holds {len(found)} denoisers of this package around a network, not one; "
            "such a student cannot be exported"
        )
    return found[0].net


def make_recipe(
    denoiser: Denoiser,
    process: Process,
    sampler: Sampler,
    shape: tuple[int, int, int],
    *,
    classes: int = 0,
    clip: bool = True,
    two_times: bool = False,
) -> Recipe:
    """Return a sampler of a denoiser as numbers.

    Args:
        denoiser: a network with its preconditioning and whatever a method put around it.
        process: the diffusion process.
        sampler: its steps.
        shape: (C, H, W).
        classes: number of classes; 0 for none.
        clip: whether x0 of DDIM steps is clipped.
        two_times: whether the denoiser is told where each step ends.

    Raises:
        ConfigError: what is around the network is no sum of the state and the network's output.
    """
    asked = _Asked(denoiser, shape, classes)
    evaluations: list[Evaluation] = []
    for index, (start, end) in enumerate(pairwise(sampler.times)):
        last = index == sampler.steps - 1
        noise = bool(sampler.noise) and not last
        landing = sampler.noise[index] if noise else end
        around = asked.at(start, landing if two_times else None)
        if sampler.solver == "heun" and not last:
            evaluations += _heun(process, start, end, around, asked.at(end))
            continue
        state, x0 = _ddim(process, start, landing)
        ratio, fresh = _renoise(process, landing, end) if noise else (1.0, None)
        evaluations.append({**around, "clip": clip, "state": ratio * state, "x0": ratio * x0, "fresh": fresh})
    return Recipe(shape, classes, process.prior_std, tuple(evaluations))


class _Asked:
    """What is around a network, found by a denoiser's answers where the network's outputs are replaced."""

    def __init__(self, denoiser: Denoiser, shape: tuple[int, int, int], classes: int) -> None:
        self.denoiser, self.network = denoiser, inner_network(denoiser)
        self.device = next(self.network.parameters()).device
        self.shape = shape
        self.labels = torch.zeros(1, dtype=torch.int64, device=self.device) if classes else None

    def at(self, t: float, s: float | None = None) -> Evaluation:
        """Return an evaluation at a time, the state after it being what it was."""
        skip, (x, noise, extra), channels = self._answer(t, s, state=1.0, output=None)
        groups, rest = divmod(channels, self.shape[0])
        if rest:
            raise ConfigError(
                f"the network has {channels} outputs for {self.shape[0]} channels; a multiple can be exported"
            )
        out = [self._answer(t, s, state=0.0, output=group)[0] for group in range(groups)]
        return Evaluation(time=t, scale=self._number(x), noise=self._number(noise), extra=extra, skip=skip, out=out,
                          clip=False, state=1.0, x0=0.0, before=0.0, fresh=None)  # fmt: skip

    def _answer(
        self, t: float, s: float | None, state: float, output: int | None
    ) -> tuple[float, tuple[Tensor, Tensor, list[float] | None], int]:
        """Return what is predicted of a constant state, the network's inputs, and the number of its output channels.

        Args:
            t: the time.
            s: where the jump ends, None for a denoiser that is not told.
            state: every pixel's value.
            output: which group of the network's output channels is 1, all others being 0.
        """
        seen: list[tuple[Tensor, Tensor, list[float] | None]] = []
        channels: list[int] = []

        def replaced(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], made: Tensor) -> Tensor:
            extra = named.get("extra")
            seen.append((given[0], given[1], None if extra is None else extra.flatten().tolist()))
            channels.append(made.shape[1])
            answer = torch.zeros_like(made)
            if output is not None:
                answer[:, output * self.shape[0] : (output + 1) * self.shape[0]] = 1
            return answer

        hook = self.network.register_forward_hook(replaced, with_kwargs=True)
        try:
            x = torch.full((1, *self.shape), state, dtype=torch.float64, device=self.device)
            times = [
                torch.full((1,), time, dtype=torch.float64, device=self.device) for time in (t, s) if time is not None
            ]
            with torch.no_grad():
                x0 = self.denoiser(x, times[0], self.labels, *times[1:])
        finally:
            hook.remove()
        if len(seen) != 1:
            raise ConfigError(
                f"{self._name} asks its network {len(seen)} times for one prediction; it cannot be exported"
            )
        return self._number(x0), seen[0], channels[0]

    def _number(self, values: Tensor) -> float:
        """Return the value that all of a tensor's elements have."""
        if not bool((values == values.flatten()[0]).all()):
            raise ConfigError(f"{self._name} treats pixels differently; it cannot be exported")
        return float(values.flatten()[0])

    @property
    def _name(self) -> str:
        return f"the student, a {type(self.denoiser).__name__},"


def _value(number: float) -> Tensor:
    return torch.full((1, 1, 1, 1), number, dtype=torch.float64)


def _time(number: float) -> Tensor:
    return torch.full((1,), number, dtype=torch.float64)


def _ddim(process: Process, t: float, s: float) -> tuple[float, float]:
    """Return the shares of state and x0 in a DDIM step."""

    def step(x: float, x0: float) -> float:
        return float(ddim_step(process, _value(x), _value(x0), _time(t), _time(s)))

    return step(1, 0), step(0, 1)


def _renoise(process: Process, r: float, s: float) -> tuple[float, float]:
    """Return the shares of state and noise in a state with fresh noise."""

    def step(x: float, z: float) -> float:
        return float(renoise(process, _value(x), _time(r), _time(s), _value(z)))

    return step(1, 0), step(0, 1)


def _heun(process: Process, t: float, s: float, first: Evaluation, second: Evaluation) -> list[Evaluation]:
    """Return the two evaluations of a Heun step: DDIM's step, and its correction from where it led.

    The corrected state is a sum of the state x, the prediction there, and the second prediction; the first step, itself
    a sum of the former two, stands for the first prediction.
    """

    def corrected(x: float, x0: float, x0_there: float) -> float:
        def denoiser(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
            return _value(x0_there)

        return float(heun_step(denoiser, process, _value(x), _time(t), _time(s), None, _value(x0)))

    state, x0 = _ddim(process, t, s)
    of_euler = corrected(0, 1, 0) / x0
    return [
        {**first, "state": state, "x0": x0},
        {**second, "state": of_euler, "x0": corrected(0, 0, 1), "before": corrected(1, 0, 0) - of_euler * state},
    ]
