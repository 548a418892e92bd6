"""The throughput of two processes of one thread each against one process of one thread, on training steps of a UNet.

    python tests/benchmarks/parallel.py [--rounds 3]

It starts both processes itself. In each round one process takes a step of the whole batch while the other one waits,
then both take a step of the same batch together; the median of the ratios is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

import torch
from unet_step import distillation

from tractbench.pipeline.timing import seconds
from tractbench.training.parallel import join, launched

BATCH = 64
"""Two blocks of examples, one a process."""


def measure(rounds: int, size: int) -> None:
    """Print the ratio from rank 0."""
    torch.set_num_threads(1)
    group = join("cpu")
    alone, together = distillation(32, size, BATCH), distillation(32, size, BATCH, group=group)
    ratios, steps = [], []
    for index in range(rounds + 1):
        group.barrier()
        whole = seconds(alone.train_step, "cpu") if group.is_main else 0.0
        group.barrier()
        shared = seconds(together.train_step, "cpu")
        if index and group.is_main:  # the first round warms up
            ratios.append(whole / shared)
            steps.append(whole)
    if group.is_main:
        print(f"two processes: {statistics.median(ratios):.2f} times the throughput of one, "
              f"whose step takes {statistics.median(steps):.2f} s")  # fmt: skip
    del together  # a replica, which its group's connections must outlive
    group.leave()


def main() -> None:
    """Start the two processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=16)
    arguments = parser.parse_args()
    if launched():
        measure(arguments.rounds, arguments.size)
        return
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    sys.exit(subprocess.run([sys.executable, *launcher, *sys.argv], env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
