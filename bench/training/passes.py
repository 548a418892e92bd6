"""How a training step calls networks: in a precision, compiled, by several processes, with and without gradients."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel

from tractbench.diffusion.denoiser import Denoiser
from tractbench.training.compiling import compiled
from tractbench.training.numerics import Precision, in_precision
from tractbench.training.parallel import Group

T = TypeVar("T")

# PyTorch scripts its rules of forward mode when they are first used; nobody can act on it
warnings.filterwarnings("ignore", "`torch.jit.script` is", FutureWarning)


@dataclass(frozen=True)
class StudentPasses:
    """The passes of the network being trained.

    Attributes:
        own: records gradients, of this process alone.
        shared: the same, whose backward pass leaves the mean of all processes' gradients, those before it included.
        frozen: records none.
    """

    own: Denoiser
    shared: Denoiser
    frozen: Denoiser

    def over(self, pieces: Sequence[T]) -> Iterator[tuple[T, Denoiser]]:
        """Yield each piece of a batch with the pass that it takes: the last one alone is shared."""
        for index, piece in enumerate(pieces):
            yield piece, self.shared if index == len(pieces) - 1 else self.own


@dataclass(frozen=True)
class Passes:
    """Makes networks the denoisers that a step calls.

    Attributes:
        precision: arithmetic of the passes.
        device: where they run.
        compiling: compile them.
        group: the processes that share out each batch.
    """

    precision: Precision
    device: str
    compiling: bool
    group: Group

    def frozen(self, denoiser: Denoiser, told: bool = True) -> Denoiser:
        """Return a denoiser that records no gradient; one that is not ``told`` where jumps end may be called so too."""
        fast = compiled(denoiser) if self.compiling and isinstance(denoiser, nn.Module) else denoiser
        inner = self._frozen(denoiser, fast)
        return inner if told else lambda x_t, t, labels=None, *t_end: inner(x_t, t, labels)

    def student(self, network: nn.Module) -> StudentPasses:
        """Return the passes of the network being trained."""
        own = compiled(network) if self.compiling else network
        return StudentPasses(self._precise(own), self._precise(self.group.replicated(own)), self._frozen(network, own))

    def _precise(self, denoiser: Denoiser) -> Denoiser:
        return in_precision(denoiser, self.precision, self.device)

    def _frozen(self, denoiser: Denoiser, fast: Denoiser) -> Denoiser:
        fast, plain = self._precise(fast), self._precise(denoiser)

        def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
            with torch.no_grad():
                if not forward_mode(x_t, t, *t_end):
                    return fast(x_t, t, labels, *t_end)
                with sdpa_kernel(SDPBackend.MATH):  # fused attention and compiled passes have no forward derivative
                    return plain(x_t, t, labels, *t_end)

        return denoise


def forward_mode(*arguments: Tensor) -> bool:
    """Whether ``torch.func.jvp`` differentiates by one of the arguments."""
    return any(unpack_dual(argument).tangent is not None for argument in arguments)


def no_self_teacher(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
    """Stand for the self-teacher of a method that keeps none.

    Raises:
        TypeError: always.
    """
    raise TypeError("this method keeps no self-teacher; set self_teacher = True on its class")
