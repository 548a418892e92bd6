"""Runs the command line in a process of several; at a training step, rank 1 may do what a test wants.

    python -m torch.distributed.run --nproc-per-node 2 processes.py STEP WHAT run --method tract ...

WHAT is the name of a signal that rank 1 gets, ``bug``, or ``digests``: every rank then writes its student's hash.
"""

import os
import signal
import sys
import time
from pathlib import Path

from tractbench.cli import main
from tractbench.io.tensors import tensors_digest
from tractbench.training.distillation import Distillation

STEP, WHAT = int(sys.argv[1]), sys.argv[2]
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


if __name__ == "__main__":
    Distillation.train_step = watched
    sys.argv = ["tractbench", *sys.argv[3:]]
    main()
