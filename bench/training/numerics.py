"""The arithmetic of the networks' passes: what a run's ``precision`` means, decided here and by no library's default.

``fp32`` is float32 throughout, ``tf32`` allows TF32 in a GPU's float32 matrix products and convolutions, ``bf16`` runs
the networks' passes under autocast to bfloat16. Schedule scalars and targets stay float64; weights, moving averages,
losses and optimiser stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from tractbench.diffusion.denoiser import Denoiser

Precision = Literal["fp32", "tf32", "bf16"]


@contextmanager
def precision(name: Precision, device: str) -> Iterator[None]:
    """Compute in a precision for the length of the context; training holds it around whole steps, backward included.

    Flags that decide about float32 products are set and afterwards what they were; an autocast of the caller's is off.
    The lower precision of ``bf16`` is for network passes alone: see :func:`in_precision`. To sample::

        with precision(name, device):
            sample(in_precision(denoiser, name, device), ...)

    Args:
        name: ``fp32``, ``tf32`` or ``bf16``.
        device: where the networks run.
    """
    kind = torch.device(device).type
    foreign = torch.is_autocast_enabled(kind)
    flags = _read_flags()
    try:
        _set_flags(tf32=name == "tf32")
        if foreign:
            with torch.autocast(kind, enabled=False):
                yield
        else:
            yield
    finally:
        _restore_flags(flags)


def in_precision(denoiser: Denoiser, name: Precision, device: str) -> Denoiser:
    """Return a denoiser whose passes run in a precision and whose x0 is at least float32.

    Args:
        denoiser: a network's, of float32 weights, or a closed form in float64, which stays as it is.
        name: ``bf16`` for autocast; the others need nothing but the context of :func:`precision`.
        device: where it runs.
    """
    if name != "bf16":
        return denoiser
    kind = torch.device(device).type

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        with torch.autocast(kind, dtype=torch.bfloat16):
            x0 = denoiser(x_t, t, labels, *t_end)
        return x0.float() if x0.dtype == torch.bfloat16 else x0

    return denoise


def sampled_in(denoiser: Denoiser, name: Precision, device: str) -> Denoiser:
    """Return a denoiser each of whose passes runs in a precision, whatever the rest computes in.

    Samples are scored while others are drawn, and features are float32 always: so the flags are set for each pass.
    """
    if name == "fp32":
        return denoiser
    inner = in_precision(denoiser, name, device)

    def denoise(x_t: Tensor, t: Tensor, labels: Tensor | None = None, *t_end: Tensor) -> Tensor:
        with precision(name, device):
            return inner(x_t, t, labels, *t_end)

    return denoise


class _Flags(NamedTuple):
    """PyTorch's flags; None where it refuses to tell, as the caller has set the newer ones alone.

    Attributes:
        products: ``torch.get_float32_matmul_precision()``.
        convolutions: ``torch.backends.cudnn.allow_tf32``.
        reduced: whether bfloat16 products may be summed in bfloat16.
        newer: ``fp32_precision`` of each of :func:`_newer`.
    """

    products: str | None
    convolutions: bool | None
    reduced: bool
    newer: tuple[str, ...]


def flags() -> dict[str, object]:
    """Return the settings that decide how float32 products are computed, by name; None where torch says none."""
    read = _read_flags()
    newer = dict(zip(GPU_PARTS + CPU_PARTS, read.newer, strict=False))
    return {
        "float32_matmul_precision": read.products,
        "cudnn.allow_tf32": read.convolutions,
        "bf16_reduced_precision_reduction": read.reduced,
        **{f"{name}.fp32_precision": value for name, value in newer.items()},
    }


class _Part(Protocol):
    fp32_precision: str


GPU_PARTS = ("cuda.matmul", "cudnn.conv", "cudnn.rnn")
CPU_PARTS = ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
"""Parts of ``torch.backends`` that have a flag of their own since PyTorch 2.9."""


def _newer() -> list[_Part]:
    """Return the parts, a GPU's first; none in an older PyTorch."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return []
    return [attrgetter(name)(torch.backends) for name in GPU_PARTS + CPU_PARTS]


def _read_flags() -> _Flags:
    products, convolutions = None, None
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolutions = torch.backends.cudnn.allow_tf32
    reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    return _Flags(products, convolutions, reduced, tuple(part.fp32_precision for part in _newer()))


def _set_flags(tf32: bool) -> None:
    """Set old and newer flags to agree: code that reads either kind finds no contradiction, which PyTorch refuses."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    for place, part in enumerate(_newer()):
        part.fp32_precision = "tf32" if tf32 and place < len(GPU_PARTS) else "ieee"


def _restore_flags(flags: _Flags) -> None:
    if flags.products is not None:
        torch.set_float32_matmul_precision(flags.products)
    if flags.convolutions is not None:
        torch.backends.cudnn.allow_tf32 = flags.convolutions
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = flags.reduced
    for part, value in zip(_newer(), flags.newer, strict=True):
        part.fp32_precision = value
