"""The command line in processes of its own that start in milliseconds, forked from one that has imported a run's all.

They have their own process group, working folder and environment, stop by signals and end with an exit status as any
process does. What only a start from nothing shows - imports, encodings, ``python -m`` - is no matter for them.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

IMPORTED = ("tractbench.cli", "tractbench.cli.console", "tractbench.pipeline.run", "tractbench.pipeline.suite",
            "tractbench.pipeline.tracking", "tractbench.methods.tract", "tractbench.datasets.digits",
            "tractbench.nets.mlp", "tractbench.evaluation.extractors.classifier",
            "tractbench.evaluation.extractors.pixel", "tractbench.evaluation.inception_scorer", "torch._dynamo",
            "torch.distributed.launcher.api", "matplotlib.backends.backend_agg", "sklearn.datasets",
            "PIL.PpmImagePlugin")  # fmt: skip
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(list(IMPORTED))


class Forked:
    """A process that calls ``function(*arguments)``; both are pickled, and the function is one of a module's.

    ``environment`` is the whole of it, ``more`` what is added to it.
    """

    def __init__(self, function, *arguments, cwd=".", environment=None, **more):
        self.folder = Path(tempfile.mkdtemp(prefix="said-", dir=cwd)).absolute()
        for name in ("out", "err"):
            (self.folder / name).touch()
        given = (
            str(Path(cwd).absolute()),
            dict(os.environ if environment is None else environment) | more,
            str(self.folder),
        )
        self.process = SERVER.Process(target=_begin, args=(function, arguments, *given), daemon=True)
        self.process.start()
        self.pid = self.process.pid

    @property
    def out(self):
        """What it has written to its standard output so far."""
        return (self.folder / "out").read_text(encoding="utf-8")

    @property
    def err(self):
        """What it has written to its standard error so far."""
        return (self.folder / "err").read_text(encoding="utf-8")

    @property
    def code(self):
        """Its exit status, negative for a signal that killed it; None while it runs."""
        return self.process.exitcode

    def wait(self, seconds=240):
        """Wait for its end; return its exit status, negative for a signal that killed it."""
        self.process.join(seconds)
        assert self.code is not None, f"it has not ended in {seconds} s: {self.err}"
        return self.code

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """End it and its group, unless it has ended."""
        if self.code is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.join()


def until(happens, seconds=240):
    """Wait for something, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def command_line(*words):
    """What ``tractbench WORDS`` does."""
    from tractbench.cli import main

    sys.argv = ["tractbench", *map(str, words)]
    main()


def _begin(function, arguments, cwd, environment, folder):
    import torch

    os.setsid()
    multiprocessing.current_process().daemon = False  # it may have children itself
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(Path(folder, name), os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if "OMP_NUM_THREADS" in environment:  # read when torch was imported
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    function(*arguments)
