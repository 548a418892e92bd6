"""The optimiser, its learning rate, and what is done to gradients before its step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tractbench.config.fields import RunConfig

BETAS = (0.9, 0.999)
INFINITE_GRADIENT = 1e5


def new_optimiser(config: RunConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return a fresh optimiser without weight decay: Adam, or PyTorch's RAdam (Liu et al. 2020)."""
    if config.optimiser == "radam":
        return torch.optim.RAdam(parameters, lr=config.lr, betas=BETAS)
    return torch.optim.Adam(parameters, lr=config.lr, betas=BETAS, fused=True)


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
