"""What a job of a suite does, in a process of its own: some runs one after the other.

Nothing heavy is imported before the job's environment is set, since libraries read their number of threads once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

    from tractbench.config.fields import RunConfig
    from tractbench.pipeline.suite_progress import End, Reporter
    from tractbench.results.store import Store

SAVE = ("SIGTERM", "SIGUSR1", "SIGUSR2")
"""Signals that ask a job to save and stop."""

AGAIN = ("SIGUSR1", "SIGUSR2")
"""Those of them after which a batch system is to queue it again: its time is nearly over."""

DRAIN = "drain"
"""A file of this name in a suite's folder: its jobs begin no further run."""

LOOK_EVERY = 1.0
"""Seconds between two looks whether the suite is still there."""


@dataclass(frozen=True)
class Item:
    """A run as a job is given it: its identity, its student's ("" without one) and its configuration as JSON."""

    id: str
    student: str
    config: str


@dataclass(frozen=True)
class Batch:
    """A job: called, it makes its runs, and what it says of them is in its report.

    It begins no further run once it has worked for ``seconds``, which its report says, after a failed run (the next one
    gets a process that nothing has happened to) or when its suite asks it. submitit keeps it on disk and, after a
    preemption, calls it again.

    Attributes:
        items: the runs, in their order.
        store: the store's folder, absolute.
        report: the file of its report.
        seconds: how long it begins further runs.
        device: cpu, cuda or auto.
        checkpoint_every: seconds between checkpoints; None as a run has it.
        environment: variables to set before anything heavy is imported.
        suite: folder whose lock the suite holds; without the suite the job saves and stops. "": it goes on alone.
        plugins: files with components that are not installed.
    """

    items: tuple[Item, ...]
    store: str
    report: str
    seconds: float
    device: str = "auto"
    checkpoint_every: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    suite: str = ""
    plugins: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Make the runs."""
        asked = _Asked()
        os.environ.update(self.environment)
        distribute()
        work(self, lambda: asked.signal is not None)
        asked.leave()

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit calls after a preemption: the same job, which goes on from the runs' checkpoints."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)


class _Asked:
    """Which signal asked to save and stop; submitit's own handlers act at once, in the middle of a step."""

    def __init__(self) -> None:
        self.signal: str | None = None
        self._before = {name: signal.getsignal(getattr(signal, name)) for name in SAVE}
        for name in SAVE:
            signal.signal(getattr(signal, name), self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name

    def leave(self) -> None:
        """End as the signal wants: queued again by submitit, or with the exit status of a run that was stopped."""
        for name, handler in self._before.items():
            signal.signal(getattr(signal, name), handler)
        if self.signal in AGAIN:
            from submitit import JobEnvironment

            os.kill(os.getpid(), getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))  # submitit's: save, queue again
        if self.signal is not None:
            sys.exit(75)  # no result: whether the job comes back, the batch system knows


def distribute() -> None:
    """Where a job has several processes, tell each its place as torch.distributed expects it."""
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def work(batch: Batch, asked: Callable[[], bool]) -> None:
    """Make the runs of a batch, and report on them.

    Args:
        batch: the runs.
        asked: True ends the current run early, keeping what is done.
    """
    from tractbench.pipeline.suite_progress import Reporter
    from tractbench.plugins import use_files
    from tractbench.results.store import Store

    use_files(map(Path, batch.plugins))
    reporter, store = Reporter(Path(batch.report), batch.seconds), Store(Path(batch.store), create=True)
    stop = _or_alone(asked, batch.suite)
    for index, item in enumerate(batch.items):
        over = index and (reporter.report.closed or (Path(batch.report).parent / DRAIN).exists())
        if over or stop():
            break
        end = _make(item, batch, store, reporter, stop)
        reporter.says(end=(item.id, end))
        if end.status in ("failed", "interrupted", "unwritable"):
            break
    reporter.says(last=True)


def _or_alone(asked: Callable[[], bool], suite: str) -> Callable[[], bool]:
    """Return ``asked``, or whether the suite that the job belongs to is gone."""
    from tractbench.results.locks import held

    due, gone = time.monotonic() + LOOK_EVERY, False

    def stop() -> bool:
        nonlocal due, gone
        if suite and time.monotonic() >= due:
            due = time.monotonic() + LOOK_EVERY
            gone = gone or not held(Path(suite))
        return gone or asked()

    return stop


def _make(item: Item, batch: Batch, store: Store, reporter: Reporter, stop: Callable[[], bool]) -> End:
    """Make one run, and say how it ended."""
    from tractbench.config.fields import RunConfig
    from tractbench.errors import InterruptedRunError, StoreError
    from tractbench.pipeline.run import run
    from tractbench.pipeline.runtime import Runtime
    from tractbench.pipeline.suite_progress import Current, End, FileProgress
    from tractbench.registry import load_dataset, load_method

    config = RunConfig.model_validate_json(item.config)
    folder = store.cell_folder(config, item.id)
    reporter.says(Current(id=item.id), at_once=True)
    if busy(store, item.id, item.student, config):
        return End(status="elsewhere")
    try:
        runtime = Runtime(device=_device(batch.device), checkpoint_every=batch.checkpoint_every, stop=stop)
        method = load_method(config.method).model_validate(config.options)
        progress = FileProgress(reporter, item.id, config.batch)
        run(config, method, load_dataset(config.dataset), store, progress, runtime)
    except InterruptedRunError as error:
        return End(status="interrupted", reason=str(error))
    except StoreError as error:
        from tractbench.results.locks import held

        return End(status="elsewhere") if held(folder) else End(status="unwritable", reason=str(error))
    except Exception as error:  # its record, its log and this report say what it was; the other runs go on
        return End(status="failed", reason=" ".join(str(error).split()) or type(error).__name__)
    return End(status="done")


def busy(store: Store, identity: str, student: str, config: RunConfig) -> bool:
    """Whether another process is making a run, or training the student that it would sample."""
    from tractbench.results.locks import held
    from tractbench.results.store import STUDENT

    if held(store.cell_folder(config, identity)):
        return True
    folder = store.student_folder(student) if student else None
    return folder is not None and not (folder / STUDENT).is_file() and held(folder)


def _device(name: str) -> str:
    """Return the device that ``auto`` is on the machine of the job."""
    import torch

    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
