"""How much a training step of TRACT costs beside its bare passes, for a UNet of 64 channels at 32x32.

Steps and floors (see ``training_step.py``) are timed in turn on one thread; the median of their ratios is printed. With
``--compile`` the step's passes are compiled and the floor's are not.

    python tests/benchmarks/unet_step.py [--rounds 3] [--compile]
"""

from __future__ import annotations

import argparse
import statistics

import torch

from tractbench.config.fields import RunConfig
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VP
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.pipeline.steps import StepParts
from tractbench.pipeline.timing import seconds
from tractbench.seeds import generator
from tractbench.training.distillation import Distillation

STEPS = 1000


def distillation(width: int, size: int, batch: int, **how) -> Distillation:
    """Return a distillation of a random UNet on random images."""
    arguments = {"channels": 3, "size": size, "width": width, "embedding": 4 * width, "multipliers": [1, 2, 2],
                 "blocks": 2, "attention": [size // 2]}  # fmt: skip
    teacher = X0Denoiser(build_network("google_unet", arguments, generator("benchmark")), VP())
    config = RunConfig.model_validate({
        "method": "tract", "dataset": "cifar10", "tier": "smoke", "process": "vp", "teacher": "-", "grid_steps": 1024,
        "nfe": 1, "schedule": (1024, 1), "budget": batch * STEPS, "batch": batch, "lr": 1e-4, "samples": 2,
        "sampling_seeds": (0,), "protocol": "tract",
    })  # fmt: skip
    images = torch.rand((256, 3, size, size), generator=generator("images")) * 2 - 1
    return Distillation(config, TRACT(), VP(), teacher.requires_grad_(False).eval(), images, **how)


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = distillation(arguments.width, 32, 16, compiling=arguments.compile)
    bare = StepParts(run).floor()  # the passes of teacher, self-teacher and student alone
    seconds(bare, "cpu"), seconds(run.train_step, "cpu")
    pairs = [(seconds(run.train_step, "cpu"), seconds(bare, "cpu")) for _ in range(arguments.rounds)]
    ratio = statistics.median(ours / least for ours, least in pairs)
    kind = "compiled" if arguments.compile else "eager"
    print(f"{kind} step: {ratio:.3f} of the eager floor ({statistics.median(one for one, _ in pairs):.2f} s a step)")


if __name__ == "__main__":
    main()
