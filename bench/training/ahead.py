"""What the next steps need, made by a worker thread while a device works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

DEPTH = 2
"""Steps that are made ahead; more would only take memory, as the device needs one at a time."""


def asynchronous(device: str) -> bool:
    """Whether a device works on its own while the CPU does something else."""
    return torch.device(device).type != "cpu"


class Ahead(Generic[T]):
    """Results of a function of consecutive integers, the next ones computed while the last one is used.

    The order is that of the integers, and an exception is raised where its result is asked for. On the CPU nothing is
    made ahead: networks and draws would only take the cores from each other.

    Args:
        make: computes the result of an integer, from nothing that changes.
        end: the first integer that nobody will ask for.
        device: what the results are for.
    """

    def __init__(self, make: Callable[[int], T], end: int, device: str) -> None:
        self._make, self._end = make, end
        self._pending: deque[tuple[int, Future[T]]] = deque()
        self._worker = ThreadPoolExecutor(1, "ahead") if asynchronous(device) else None

    def take(self, index: int) -> T:
        """Return the result of an integer; asking for another than the next one starts afresh there."""
        if self._worker is None:
            return self._make(index)
        if not self._pending or self._pending[0][0] != index:
            self._drop()
        start = self._pending[-1][0] + 1 if self._pending else index
        for later in range(start, min(index + DEPTH + 1, self._end)):
            self._pending.append((later, self._worker.submit(self._make, later)))
        return self._pending.popleft()[1].result() if self._pending else self._make(index)

    def close(self) -> None:
        """Stop the worker after what it is at; results can then no longer be taken."""
        self._drop()
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)

    def _drop(self) -> None:
        for _, future in self._pending:
            future.cancel()
        self._pending.clear()
