"""Runs the command line in several processes, as torchrun does but that they are forked from one that has imported all.

    python processes.py PROCESSES STEP WHAT run --method tract ...

At training step STEP rank 1 does what WHAT says: it gets the signal of that name, or has a ``bug``; for ``digests``
every rank writes its student's hash.
"""

import os
import signal
import sys
import time
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tractbench.cli import main
from tractbench.io.tensors import tensors_digest
from tractbench.training.distillation import Distillation

PROCESSES, STEP, WHAT = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
train_step = Distillation.train_step


def watched(self):
    if self.step == STEP and WHAT != "digests" and self.group.rank == 1:
        Path("died").write_text(str(time.monotonic()))
        if WHAT == "bug":
            raise ZeroDivisionError("a bug on rank 1")
        os.kill(os.getpid(), getattr(signal, WHAT))
    train_step(self)
    if self.step == STEP and WHAT == "digests":
        Path(f"digest-{self.group.rank}").write_text(tensors_digest(self.state().tensors))


def one():
    Distillation.train_step = watched
    sys.argv = ["tractbench", *sys.argv[4:]]
    main()


if __name__ == "__main__":
    how = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": PROCESSES, "max_restarts": 0, "start_method": "fork"}
    there = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    elastic_launch(LaunchConfig(**how, **there), one)()
