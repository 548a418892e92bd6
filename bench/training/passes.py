"""How a training step calls networks: in a precision, compiled, by several processes, with and without gradients."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn.attention import SDPBackend, sdpa_kernel

from tractbench.diffusion.denoiser import Denoiser
from tractbench.training.compiling import compiled
from tractbench.training.numerics import Precision, in_precision
from tractbench.training.parallel import Group

# PyTorch scripts its rules of forward mode when they are first used; nobody can act on it
warnings.filterwarnings("ignore", "`torch.jit.script` is", FutureWarning)


@dataclass(frozen=True)
class StudentPasses:
    """The passes of the network being trained.

    Attributes:
        recording: records gradients.
        frozen: records none.
    """

    recording: Denoiser
    frozen: Denoiser


@dataclass(frozen=True)
class Passes:
    """Makes networks the denoisers that a step calls.

    Attributes:
        precision: arithmetic of the passes.
        device: where they run.
        compiling: compile them.
        group: the processes among which the student's passes leave the mean of gradients; one alone if that is done
            after them.
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
        return StudentPasses(self._precise(self.group.replicated(own)), self._frozen(network, own))

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
    duals = [unpack_dual(argument) for argument in arguments]  # type: ignore[no-untyped-call]  # PyTorch's own
    return any(dual.tangent is not None for dual in duals)


def no_self_teacher(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
    """Stand for the self-teacher of a method that keeps none.

    Raises:
        TypeError: always.
    """
    raise TypeError("this method keeps no self-teacher; set self_teacher = True on its class")
