"""Runs the command line in several processes, as torchrun does but that they are forked from one that has imported all.

At a training step rank 1 does what is said of it: it gets the signal of that name, or has a ``bug``; for ``digests``
every rank writes its student's hash.
"""

import os
import signal
import time
from pathlib import Path

from forked import command_line
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tractbench.io.tensors import tensors_digest
from tractbench.training.distillation import Distillation


def ranks(processes, step, what, *words):
    """Run a command in so many processes; rank 1 does ``what`` at a training step."""
    train_step = Distillation.train_step

    def watched(self):
        if self.step == step and what != "digests" and self.group.rank == 1:
            Path("died").write_text(str(time.monotonic()))
            if what == "bug":
                raise ZeroDivisionError("a bug on rank 1")
            os.kill(os.getpid(), getattr(signal, what))
        train_step(self)
        if self.step == step and what == "digests":
            Path(f"digest-{self.group.rank}").write_text(tensors_digest(self.state().tensors))

    Distillation.train_step = watched  # in this process, and so in those that are forked from it
    how = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": processes, "max_restarts": 0, "start_method": "fork"}
    there = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    elastic_launch(LaunchConfig(**how, **there), command_line)(*words)
