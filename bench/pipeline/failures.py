"""Why runs end early: every end has a kind and a reason that stand in its record."""

from __future__ import annotations

import torch

from tractbench.errors import RunFailedError
from tractbench.results.record import Failure

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
)
BUILD = ("no kernel image", "not compiled with")
LOST = ("cuda error", "device-side assert", "unspecified launch failure", "nccl error", "has fallen off the bus")


def failure_kind(error: BaseException) -> Failure:
    """Return what kind of failure an exception is."""
    text = str(error).lower()
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _says(error, text, OUT_OF_MEMORY):
        return "out of memory"
    if _says(error, text, BUILD):
        return "error"
    if isinstance(error, getattr(torch, "AcceleratorError", ())) or _says(error, text, LOST):
        return "lost the device"
    if isinstance(error, RunFailedError) and text.startswith("diverged"):
        return "diverged"
    return "error"


def _says(error: BaseException, text: str, phrases: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError | OSError) and any(phrase in text for phrase in phrases)


def failure_reason(error: BaseException, kind: Failure, device: str) -> str:
    """Return one line that says what happened and, where something helps, what."""
    text = " ".join(str(error).split()) or type(error).__name__
    if kind == "out of memory":
        return f"out of memory on {device}: {text[:200]}; lower --batch or choose a smaller network"
    if kind == "lost the device":
        return f"lost the device {device}: {text[:200]}; the same command goes on from the last checkpoint"
    return text if isinstance(error, RunFailedError) else f"{type(error).__name__}: {text}"
