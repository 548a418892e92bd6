"""How far rounding can move a run: the same run with its rounding errors made random (Parker 1997)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from tractbench.seeds import generator

UNIT = torch.finfo(torch.float32).eps
"""The last place of float32, 2^-23."""


@contextmanager
def random_rounding(seed: int) -> Iterator[None]:
    """Move every float32 output of every module at random, by up to a unit in the last place of its root mean square.

    Sums in another order, as another processor or library makes them, differ by as much: relative to the terms, not to
    a result in which they cancel.

    Args:
        seed: other seeds, other errors.
    """
    random = generator("random rounding", seed)

    def rounded(module: nn.Module, inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or output.dtype != torch.float32:
            return None
        drawn = torch.rand(output.shape, generator=random)
        size = output.detach().square().mean().sqrt()
        return output + UNIT * size * (2 * drawn - 1)

    hook = register_module_forward_hook(rounded)  # type: ignore[arg-type]  # its type forgets that outputs may change
    try:
        yield
    finally:
        hook.remove()
