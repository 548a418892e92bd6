"""Why runs end early: every end has a kind and a reason that stand in its record."""

from __future__ import annotations

import traceback
from typing import Literal

import torch
from pydantic import BaseModel

from tractbench.errors import InterruptedRunError, RunFailedError, TractbenchError
from tractbench.results.record import Failure
from tractbench.training.parallel import Group

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


class Ending(BaseModel, frozen=True):
    """How a run ended early.

    Attributes:
        rank: the process that ended first, and says so to the user.
        status: as the record has it.
        failure: what kind of failure it was, None if the run was stopped.
        reason: what happened, in one line.
        traceback: of a bug, else empty.
        exit_code: of that process.
    """

    rank: int
    status: Literal["failed", "interrupted"]
    failure: Failure | None
    reason: str
    traceback: str = ""
    exit_code: int

    def error(self) -> TractbenchError:
        """Return what the other processes raise."""
        kind = InterruptedRunError if self.status == "interrupted" else RunFailedError
        error = kind(self.reason)
        error.exit_code = self.exit_code
        return error


def first_ending(error: BaseException, group: Group, device: str) -> Ending:
    """Return how a run ended, to the process that was the first to end as to those that failed because it did.

    Args:
        error: what this process failed with.
        group: the processes of the run.
        device: where the networks run.
    """
    return Ending.model_validate_json(group.first("ending", _ending(error, group, device).model_dump_json()))


def _ending(error: BaseException, group: Group, device: str) -> Ending:
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        code = getattr(error, "exit_code", InterruptedRunError.exit_code)
        reason = str(error) or "stopped at once"
        return Ending(rank=group.rank, status="interrupted", failure=None, reason=reason, exit_code=code)
    kind = failure_kind(error)
    reason = failure_reason(error, kind, device)
    trace = "" if isinstance(error, TractbenchError) else "".join(traceback.format_exception(error))
    code = error.exit_code if isinstance(error, TractbenchError) else RunFailedError.exit_code
    if group.lost(error):
        kind, reason = "error", "another process of this run is gone; the same command goes on from the last checkpoint"
    return Ending(rank=group.rank, status="failed", failure=kind, reason=reason, traceback=trace, exit_code=code)
