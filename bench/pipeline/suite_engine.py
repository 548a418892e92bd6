"""Where a suite's jobs run: processes of this machine or a Slurm cluster, both by submitit."""

from __future__ import annotations

import os
import shutil
import signal
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import submitit
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tractbench.errors import ConfigError, StoreError, nearest_name
from tractbench.pipeline.suite_job import Batch

FOREVER_MINUTES = 60 * 24 * 365
"""submitit ends local jobs after two minutes unless told otherwise."""

MANY = 1000
"""Times that a job of a cluster may come to the end of its time and be queued again."""


class Running(Protocol):
    """A job that was handed over."""

    @property
    def name(self) -> str:
        """What its engine calls it."""

    def done(self) -> bool:
        """Whether it has ended, however it did."""

    def stop(self) -> None:
        """Ask it to save and stop; asking again does no harm."""

    def log(self) -> str:
        """Return the last line that it wrote."""


class Engine(Protocol):
    """Runs jobs.

    Attributes:
        name: what it is called.
        poll_seconds: how often it is worth asking.
        alone: whether its jobs go on when the suite is killed.
    """

    name: str
    poll_seconds: float
    alone: bool

    def submit(self, batches: Sequence[Batch]) -> Sequence[Running]:
        """Hand jobs over, in their order.

        Raises:
            StoreError: their files cannot be written.
            ConfigError: the engine does not take them.
        """


class _Submitted:
    """A job of submitit's."""

    def __init__(self, job: submitit.Job[None], stop: Callable[[], object]) -> None:
        self._job, self._stop = job, stop

    @property
    def name(self) -> str:
        return str(self._job.job_id)

    def done(self) -> bool:
        return self._job.done()

    def stop(self) -> None:
        if not self._job.done():
            self._stop()

    def log(self) -> str:
        try:
            lines = (self._job.stdout() or "").split("\n") + (self._job.stderr() or "").split("\n")
        except (OSError, UnicodeDecodeError):
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), f"nothing in {self._job.paths.stdout}")


class LocalEngine:
    """Processes of this machine.

    Args:
        folder: for submitit's files and the jobs' logs.
        jobs: how many there will be at a time; of several each computes on one thread.
        gpus: GPUs to share out among them, by index.
    """

    name = "local"
    poll_seconds = 0.2
    alone = False

    def __init__(self, folder: Path, jobs: int, gpus: int = 0) -> None:
        self._executor = submitit.LocalExecutor(folder.absolute() / "%j")
        self._executor.update_parameters(timeout_min=FOREVER_MINUTES, stderr_to_stdout=True)
        self._jobs, self._gpus, self._started = jobs, gpus, 0

    def submit(self, batches: Sequence[Batch]) -> Sequence[Running]:
        """Start a process for each job."""
        return [self._start(batch) for batch in batches]

    def _start(self, batch: Batch) -> Running:
        device = str(self._started % self._gpus) if self._gpus else ""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if device and visible:
            device = visible.split(",")[int(device)]
        self._started += 1
        threads = {"OMP_NUM_THREADS": "1"} if self._jobs > 1 else {}
        with _unheard_by_the_terminal(threads), _files():
            job = self._executor.submit(replace(batch, environment={"CUDA_VISIBLE_DEVICES": device}))
        return _Submitted(job, partial(os.kill, int(job.job_id), signal.SIGTERM))  # its controller passes it on


@contextmanager
def _unheard_by_the_terminal(environment: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C and a closed terminal: the suite tells them what to do.

    Args:
        environment: variables that they get besides.
    """
    before = {name: signal.signal(getattr(signal, name), signal.SIG_IGN) for name in ("SIGINT", "SIGHUP")}
    kept = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@contextmanager
def _files() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write a job's files: {error.strerror or error}; make room and go on") from error


class SlurmSettings(BaseModel):
    """How jobs are queued: the ``[slurm]`` table of a TOML file. What is not given, the cluster decides.

    Attributes:
        time: minutes that a job may take; before they are over it saves, and is queued again.
        gpus: for each node; with several GPUs or nodes a job is one process for each GPU.
        cpus: for each process.
        mem: for each node, as sbatch takes it.
        pack: minutes for which a job begins further runs, so that short ones share a job.
        warn: seconds before the end at which a job is told to save.
        setup: lines of shell before the job, such as ``module load cuda``.
        more: other options of sbatch by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    time: int = Field(240, ge=1)
    gpus: int = Field(0, ge=0)
    nodes: int = Field(1, ge=1)
    cpus: int | None = Field(None, ge=1)
    mem: str | None = None
    pack: float = Field(30.0, ge=0)
    warn: int = Field(120, ge=1)
    setup: tuple[str, ...] = ()
    more: dict[str, str | int] = {}

    def parameters(self, jobs: int) -> dict[str, object]:
        """Return what submitit's executor takes, for so many jobs at a time."""
        own = self.model_dump(include={"partition", "account", "qos", "constraint", "exclude", "time", "nodes", "mem"})
        tasks = max(1, self.gpus) if self.gpus > 1 or self.nodes > 1 else 1
        own |= {
            "job_name": "tractbench",
            "array_parallelism": jobs,
            "signal_delay_s": self.warn,
            "ntasks_per_node": tasks,
            "gpus_per_node": self.gpus or None,
            "cpus_per_task": self.cpus,
            "setup": list(self.setup) or None,
            "additional_parameters": dict(self.more) or None,
        }
        return {name: value for name, value in own.items() if value is not None}


def read_slurm(path: Path | None, flags: Mapping[str, object]) -> SlurmSettings:
    """Return the ``[slurm]`` table of a TOML file, or nothing, with flags over it; those that are None are not given.

    Raises:
        ConfigError: the file cannot be read, or has an unknown key or an impossible value.
    """
    table: object = {}
    try:
        if path:
            table = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("slurm")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    if not isinstance(table, dict):
        raise ConfigError(f'{path} has no [slurm] table; write one, such as: [slurm] with partition = "gpu"')
    try:
        return SlurmSettings.model_validate(table | {name: v for name, v in flags.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        hint = nearest_name(key, SlurmSettings.model_fields) if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"slurm: {key} {first['input']!r}: {first['msg'].lower()}{hint}") from error


class SlurmEngine:
    """A Slurm cluster.

    Args:
        folder: for submitit's files and the jobs' logs; all nodes have to see it.
        jobs: how many there will be at a time.
        settings: how they are queued.

    Raises:
        ConfigError: this machine has no Slurm.
    """

    name = "slurm"
    poll_seconds = 2.0
    alone = True

    def __init__(self, folder: Path, jobs: int, settings: SlurmSettings) -> None:
        missing = [program for program in ("sbatch", "srun", "sacct", "scancel") if shutil.which(program) is None]
        if missing:
            raise ConfigError(f"executor 'slurm': no {missing[0]} here; log in to the cluster, or leave it out")
        self._executor = submitit.SlurmExecutor(folder.absolute() / "%j", max_num_timeout=MANY)
        self._executor.update_parameters(**settings.parameters(jobs))

    def submit(self, batches: Sequence[Batch]) -> Sequence[Running]:
        """Queue jobs: several as one array."""
        try:
            with _files():
                if len(batches) == 1:
                    jobs = [self._executor.submit(batches[0])]
                else:
                    jobs = self._executor.submit_array(batches)
        except submitit.core.utils.FailedJobError as error:
            said = " ".join(str(error).split())
            raise ConfigError(f"slurm: sbatch says: {said}; see [slurm] and its flags") from error
        return [_Submitted(job, partial(job.cancel, check=False)) for job in jobs]
