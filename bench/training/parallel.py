"""The processes that make one run together: who they are, and the few things that they tell each other.

Accelerate starts them (``torchrun``, ``accelerate launch``); see ``docs/scale.md``. A process alone is a group of one,
whose methods do nothing and import nothing.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from tractbench.errors import ConfigError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long a process waits for the others. They may wait for one that computes reference statistics; a process that
ended is noticed at once, as its connections close, and launchers end the rest."""

LOST = ("closed by peer", "connection reset", "connection refused", "broken pipe", "gloo", "nccl", "timed out")
"""Words in the errors of a process whose partner is gone."""


def share(count: int, rank: int, size: int) -> range:
    """Return a rank's part of ``range(count)``: consecutive, all parts of equal size but for one."""
    return range(count * rank // size, count * (rank + 1) // size)


@dataclass(frozen=True)
class Group:
    """The processes of a run as one of them sees them; this class is a process alone.

    All ranks must call the methods that exchange something, in the same order.

    Attributes:
        device: where this process's networks run.
        rank: this process's number, from 0.
        size: number of processes.
    """

    device: str = "cpu"
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and prints."""
        return self.rank == 0

    def agree(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is on anywhere."""
        return list(flags)

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns on rank 0; it is not called elsewhere."""
        return make()

    def tensors_from_main(self, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return the named CPU tensors that ``make`` returns on rank 0; they travel one by one."""
        return make()

    def gather(self, value: T) -> list[T]:
        """Return on rank 0 the values of all ranks in order, elsewhere nothing."""
        return [value]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks, the same bits everywhere."""

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of parameters, the same on all ranks, by their means."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size > 1 and gradients:
            self.sum_(gradients)
            torch._foreach_div_(gradients, self.size)

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    @contextmanager
    def one_a_machine_first(self) -> Iterator[None]:
        """Let one process of each machine through the context before its others, to fetch what all of them need."""
        yield

    def replicated(self, network: nn.Module) -> nn.Module:
        """Return a network, the same as rank 0's, whose backward passes leave the mean of all ranks' gradients."""
        return network

    def first(self, key: str, value: str) -> str:
        """Return the value that a rank was the first to give a key, this one if there is none; nobody is waited for."""
        return value

    def known(self, key: str) -> str | None:
        """Return the value of a key if :meth:`first` gave it one; nobody is waited for."""
        return None

    def lost(self, error: BaseException) -> bool:
        """Whether an error says that another process is gone, and nothing of this one."""
        return False

    def leave(self) -> None:
        """End the exchange, when all is done."""


ALONE = Group()
"""A process that shares its work with no other."""


@dataclass(frozen=True)
class Processes(Group):
    """Several processes, joined by :func:`join`."""

    def agree(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is on anywhere; on the CPU, so that no GPU is waited for."""
        on = torch.tensor(flags, dtype=torch.uint8)
        torch.distributed.all_reduce(on, torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in on.tolist()]

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns on rank 0, pickled."""
        found = [make() if self.is_main else None]
        torch.distributed.broadcast_object_list(found, 0)
        value: T = found[0]  # type: ignore[assignment]  # rank 0's, which is a T
        return value

    def tensors_from_main(self, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return rank 0's named tensors; no more than one is copied at a time."""
        given = {name: tensor.contiguous() for name, tensor in make().items()} if self.is_main else {}
        shapes = self.from_main(lambda: {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in given.items()})
        tensors = {}
        for name, (shape, dtype) in shapes.items():
            tensors[name] = given[name] if self.is_main else torch.empty(shape, dtype=dtype)
            torch.distributed.broadcast(tensors[name], 0)
        return tensors

    def gather(self, value: T) -> list[T]:
        """Return on rank 0 the values of all ranks in order, pickled."""
        values: list[T] | None = [value] * self.size if self.is_main else None
        torch.distributed.gather_object(value, values, 0)
        return values or []

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks."""
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)

    def barrier(self) -> None:
        """Wait until all ranks are here, on the CPU: NCCL's own would need to be told the GPU."""
        torch.distributed.all_reduce(torch.zeros(1))

    @contextmanager
    def one_a_machine_first(self) -> Iterator[None]:
        """Let one process of each machine through the context before its others."""
        own_turn = _from_environment("LOCAL_RANK") == 0
        if not own_turn:
            self.barrier()
        yield
        if own_turn:
            self.barrier()

    def replicated(self, network: nn.Module) -> nn.Module:
        """Wrap a network in DistributedDataParallel, which sums gradients while the backward pass goes on.

        ``static_graph``: some published networks have parameters that no pass uses.
        """
        from torch.nn.parallel import DistributedDataParallel

        # gradients of 1x1 convolutions come with other strides than their weights, and are copied; nobody can act on it
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
        with warnings.catch_warnings():  # PyTorch 2.14 wants a name for broadcast_buffers that others lack
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                network, broadcast_buffers=False, gradient_as_bucket_view=True, static_graph=True
            )

    def first(self, key: str, value: str) -> str:
        """Ask the launcher's key-value store, which outlives a process that failed."""
        try:
            return _store().compare_set(key, "", value).decode()
        except RuntimeError:  # the store is gone with rank 0 or the launcher, so nobody is left to be told
            return value

    def known(self, key: str) -> str | None:
        """Ask the launcher's key-value store."""
        try:
            return _store().get(key).decode() if _store().check([key]) else None
        except RuntimeError:
            return None

    def lost(self, error: BaseException) -> bool:
        """Whether an error is of a broken connection."""
        return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST)

    def leave(self) -> None:
        """Wait for all, and close the connections.

        A replica that outlives them can abort the process at its very end, and those of a finished training hang in
        reference cycles: they are collected first.
        """
        self.barrier()
        gc.collect()
        torch.distributed.destroy_process_group()


def launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return _from_environment("WORLD_SIZE", 1) > 1


def join(device: str) -> Group:
    """Join the processes that a launcher started this one with; alone, return a group of one.

    Args:
        device: ``cpu``, or ``cuda`` for one GPU a process.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine, or a device that they cannot share.
    """
    if not launched():
        return Group(device)
    kind, _, number = device.partition(":")
    local = _from_environment("LOCAL_RANK")
    if number:
        raise ConfigError(f"device '{device}': each process takes a GPU of its own; use --device {kind}")
    if kind == "cuda" and local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {local + 1} of this machine finds {torch.cuda.device_count()} GPUs; start as many processes as "
            "there are GPUs, or use --device cpu"
        )
    from accelerate import PartialState

    on_cpu = kind == "cpu"
    if on_cpu:  # Accelerate would count the threads itself, and warn; torchrun sets them to 1
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    # gloo beside nccl: what is agreed on is on the CPU, and gloo notices a process that is gone at once
    backend = "gloo" if on_cpu else "cuda:nccl,cpu:gloo"
    state = PartialState(cpu=on_cpu, backend=backend, timeout=PATIENCE)
    return Processes(str(state.device), state.process_index, state.num_processes)


def _from_environment(name: str, default: int = 0) -> int:
    return int(os.environ.get(name, default))


def _store() -> Store:
    """Return the key-value store by which the processes found each other."""
    store: Store = torch.distributed.distributed_c10d._get_default_store()
    return store
