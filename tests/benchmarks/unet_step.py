"""How much a training step of TRACT, or its samples, cost beside the bare passes, for a UNet of 64 channels at 32x32.

Steps and floors (see ``training_step.py``) are timed in turn on one thread; the median of their ratios is printed.
Where memory happens to lie moves a pass by several percent for a process's whole life, so that several processes are
asked, one after the other. With ``--compile`` the step's passes are compiled and the floor's are not. With
``--sampling`` chunks of images are timed beside as many passes as they take.

    python tests/benchmarks/unet_step.py [--processes 5] [--rounds 3] [--compile | --sampling]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

import torch

from tractbench.config.fields import RunConfig
from tractbench.diffusion.processes import VP
from tractbench.diffusion.sampler import Sampler
from tractbench.evaluation.sampling import sample
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.pipeline.steps import StepParts
from tractbench.pipeline.timing import Work, seconds
from tractbench.seeds import generator
from tractbench.teachers.load import wrap
from tractbench.training.distillation import Distillation

STEPS, BATCH, SHAPE, NFE = 1000, 16, (3, 32, 32), 2


def distillation(width: int, size: int, batch: int, **how) -> Distillation:
    """Return a distillation of a random UNet on random images."""
    arguments = {"channels": 3, "size": size, "width": width, "embedding": 4 * width, "multipliers": [1, 2, 2],
                 "blocks": 2, "attention": [size // 2]}  # fmt: skip
    teacher = wrap(build_network("google_unet", arguments, generator("benchmark")), "x0", VP())
    config = RunConfig.model_validate({
        "method": "tract", "dataset": "cifar10", "tier": "smoke", "process": "vp", "teacher": "-", "grid_steps": 1024,
        "nfe": 1, "schedule": (1024, 1), "budget": batch * STEPS, "batch": batch, "lr": 1e-4, "samples": 2,
        "sampling_seeds": (0,), "protocol": "tract",
    })  # fmt: skip
    images = torch.rand((256, 3, size, size), generator=generator("images")) * 2 - 1
    return Distillation(config, TRACT(), VP(), teacher.requires_grad_(False).eval(), images, **how)


def training(run: Distillation) -> tuple[Work, Work]:
    """Return a step, and the passes of teacher, self-teacher and student alone."""
    return run.train_step, StepParts(run).floor()


def sampling(run: Distillation) -> tuple[Work, Work]:
    """Return the making of a chunk of images, and as many passes as it takes."""
    batch = run.draw(run.plan.phase, 0.0)

    @torch.no_grad()
    def passes() -> None:
        for _ in range(NFE):
            run.teacher(batch.x_t, batch.times.t, None)

    return lambda: next(sample(run.teacher, VP(), SHAPE, 0, BATCH, Sampler.equal(NFE), chunk=BATCH)), passes


def measure(arguments: argparse.Namespace) -> None:
    """Print the seconds of work and floor in each round, as JSON."""
    torch.set_num_threads(1)
    run = distillation(arguments.width, SHAPE[-1], BATCH, compiling=arguments.compile)
    work, bare = (sampling if arguments.sampling else training)(run)
    seconds(bare, "cpu"), seconds(work, "cpu")
    print(json.dumps([(seconds(work, "cpu"), seconds(bare, "cpu")) for _ in range(arguments.rounds)]))


def main() -> None:
    """Ask the processes and print the ratio, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--compile", action="store_true")
    kind.add_argument("--sampling", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments)
        return
    command, environment = [sys.executable, *sys.argv, "--one"], os.environ | {"OMP_NUM_THREADS": "1"}
    asked = [
        json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
        for _ in range(arguments.processes)
    ]
    ratios = [statistics.median(ours / least for ours, least in pairs) for pairs in asked]
    spent = statistics.median(ours for pairs in asked for ours, _ in pairs)
    what = "chunk of samples" if arguments.sampling else "compiled step" if arguments.compile else "eager step"
    print(f"{what}: {statistics.median(ratios):.3f} of the eager floor ({min(ratios):.3f} to {max(ratios):.3f} over "
          f"{arguments.processes} processes; {spent:.2f} s)")  # fmt: skip


if __name__ == "__main__":
    main()
