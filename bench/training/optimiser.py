"""The optimiser, its learning rate, and what is done to gradients before its step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.radam import radam

from tractbench.config.fields import RunConfig

BETAS, EPSILON = (0.9, 0.999), 1e-8
INFINITE_GRADIENT = 1e5


class Adam:
    """Adam (Kingma and Ba 2015), or RAdam (Liu et al. 2020), without weight decay, by PyTorch's own steps.

    ``torch.optim``'s classes import PyTorch's compiler when the first of them is made, which takes most of a second,
    and look for hooks at every step; the state that they load keeps its own memory layout, in which the fused kernel,
    going by place, moves channels-last weights by other weights' moments.

    Args:
        parameters: what is trained; what has no gradient in a step stays as it is.
        rate: learning rate of the next step; it may be set before each.
        rectified: RAdam.

    Attributes:
        state: by a parameter's index, ``step`` (a float32 scalar), ``exp_avg`` and ``exp_avg_sq``; none before its
            first gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float, *, rectified: bool = False) -> None:
        self.parameters, self.rate, self._rectified = list(parameters), rate, rectified
        self.state: dict[int, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients."""
        moved: list[Tensor] = []
        gradients: list[Tensor] = []
        states: list[dict[str, Tensor]] = []
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            if index not in self.state:
                self.state[index] = self._new_state(parameter)
            moved.append(parameter)
            gradients.append(parameter.grad)
            states.append(self.state[index])
        first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        if self._rectified:
            radam(
                moved, gradients, first, second, steps,
                beta1=BETAS[0], beta2=BETAS[1], lr=self.rate, weight_decay=0.0, eps=EPSILON,
            )  # fmt: skip
        else:
            adam(
                moved, gradients, first, second, [], steps, fused=True, amsgrad=False, maximize=False,
                beta1=BETAS[0], beta2=BETAS[1], lr=self.rate, weight_decay=0.0, eps=EPSILON,
            )  # fmt: skip

    def _new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        device = "cpu" if self._rectified else parameter.device  # the fused kernel reads it on the device
        counted = torch.zeros((), dtype=torch.float32, device=device)
        return {"step": counted, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def load_state(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Go on from copies of another one's ``state``, of the same parameters, laid out in memory as they are.

        Raises:
            IndexError: it is of more parameters.
            KeyError: one of the three tensors of a parameter is missing.
            RuntimeError: one has another shape.
        """
        self.state = {}
        for index, found in state.items():
            self.state[index] = self._new_state(self.parameters[index])
            for name, tensor in self.state[index].items():
                tensor.copy_(found[name])


def new_optimiser(config: RunConfig, parameters: Sequence[nn.Parameter]) -> Adam:
    """Return a fresh optimiser, as the run says."""
    return Adam(parameters, config.lr, rectified=config.optimiser == "radam")


def learning_rate(config: RunConfig, step: int, progress: float) -> float:
    """Return the learning rate of a step.

    Args:
        config: the run.
        step: steps taken before it, over all phases; the warm-up counts images from the first.
        progress: the share of its phase's steps taken before it.
    """
    rate = config.lr
    if config.lr_schedule == "linear":
        rate *= 1 - progress
    if config.warmup:
        rate *= min(1.0, (step + 1) * config.batch / config.warmup)
    return rate


def mend_gradients(config: RunConfig, parameters: Sequence[nn.Parameter], replaced: Tensor) -> Tensor | None:
    """Clip the gradients' norm, or replace their entries that are not finite, as the run says.

    Args:
        config: the run.
        parameters: what is trained.
        replaced: count of replaced entries so far, int64 on the gradients' device; it is added to.

    Returns:
        The norm before it was limited, on the device; None where nobody needed it.
    """
    if config.gradients == "clip_norm":
        return torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    gradients = [p.grad for p in parameters if p.grad is not None]
    # Reading a value back would make a device idle; a CPU has it at hand, and norms cost it less than the replacing.
    if replaced.device.type != "cpu" or not bool(torch.stack(torch._foreach_norm(gradients)).isfinite().all()):
        replace_nonfinite(gradients, replaced)
    return None


@torch.no_grad()
def replace_nonfinite(gradients: Sequence[Tensor], replaced: Tensor) -> None:
    """Replace nan by 0 and infinities by +-1e5 in place, without reading any value back from the device."""
    for gradient in gradients:
        replaced += torch.count_nonzero(gradient - gradient)  # 0 where finite, else nan
        gradient.nan_to_num_(nan=0.0, posinf=INFINITE_GRADIENT, neginf=-INFINITE_GRADIENT)
