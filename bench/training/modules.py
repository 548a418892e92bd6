"""A method's own modules, which are trained with the student."""

from __future__ import annotations

from torch import nn

from tractbench.method import Method
from tractbench.nets.build import Initialised
from tractbench.seeds import generator


def new_modules(method: Method, shape: tuple[int, int, int], seed: int) -> nn.ModuleDict:
    """Return a method's modules at their first weights, by name; empty for most methods.

    Args:
        method: the method.
        shape: (C, H, W).
        seed: training seed, which the weights are drawn from where a module draws any.
    """
    modules = nn.ModuleDict(method.modules(shape))
    for name, module in modules.items():
        if isinstance(module, Initialised):
            module.initialise(generator("module", seed, name))
    return modules.requires_grad_(True).train()
