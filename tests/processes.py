"""Command lines to which something happens at a training step, in one process or in several.

What happens is a signal by its name or a ``bug``; for ``digests`` nothing does, and every rank writes its student's
hash.
"""

import os
import signal
import time
from pathlib import Path

from forked import command_line
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tractbench.io.tensors import tensors_digest
from tractbench.training.distillation import Distillation


def alone(step, what, *words):
    """Run a command to which something happens just before a training step, counted from 0."""
    _let_happen(0, step, what)
    command_line(*words)


def ranks(processes, step, what, *words):
    """Run a command in so many processes, as torchrun does; rank 1 is the one to which something happens."""
    _let_happen(1, step, what)
    how = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": processes, "max_restarts": 0, "start_method": "fork"}
    there = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
    elastic_launch(LaunchConfig(**how, **there), command_line)(*words)


def _let_happen(rank, step, what):
    """Change the training of this process, and so of those that are forked from it."""
    train_step = Distillation.train_step

    def watched(self):
        if self.step == step and what != "digests" and self.group.rank == rank:
            Path("died").write_text(str(time.monotonic()))
            if what == "bug":
                raise ZeroDivisionError("a bug on rank 1")
            os.kill(os.getpid(), getattr(signal, what))
        train_step(self)
        if self.step == step and what == "digests":
            Path(f"digest-{self.group.rank}").write_text(tensors_digest(self.state().tensors))

    Distillation.train_step = watched
