"""What the next training steps depend on: named tensors, and numbers beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from tractbench.training.optimiser import Adam


@dataclass(frozen=True)
class LossPoint:
    """Mean loss over the steps up to and including ``step``."""

    step: int
    phase: int
    images: int
    loss: float


class Numbers(BaseModel):
    """What is saved beside the tensors.

    Attributes:
        step: steps taken.
        seconds: time spent on them.
        inference_updates: updates of the inference average.
        inference_share: weight of its recent part.
        self_teacher_updates: updates of the self-teacher, 0 if there is none.
        nonfinite_gradients: entries of gradients that were replaced.
        distillation_errors: what was measured at the end of each phase.
        losses: the loss curve.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    seconds: float
    inference_updates: int
    inference_share: float
    self_teacher_updates: int
    nonfinite_gradients: int
    distillation_errors: tuple[float, ...]
    losses: tuple[LossPoint, ...]


@dataclass(frozen=True)
class State:
    """A distillation between two steps; the tensors are its own, not copies."""

    tensors: Mapping[str, Tensor]
    numbers: Numbers


def collect(modules: Mapping[str, nn.Module], optimiser: Adam) -> dict[str, Tensor]:
    """Return the tensors of modules as ``MODULE.NAME`` and of an optimiser as ``adam.INDEX.NAME``."""
    tensors = {f"{m}.{name}": value for m, module in modules.items() for name, value in module.state_dict().items()}
    state = optimiser.state.items()
    return tensors | {f"adam.{index}.{name}": value for index, entry in state for name, value in entry.items()}


def spread(tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module], optimiser: Adam) -> None:
    """Copy what :func:`collect` returned back into modules and an optimiser of the same shapes."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    for name, module in modules.items():
        module.load_state_dict(parts[name])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in parts.get("adam", {}).items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state(state)
