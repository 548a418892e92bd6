"""How much a training step costs beyond its network passes, as a ratio to the floor measured in the same run.

TRACT-EDM's teacher step is Heun's: two passes of the teacher and one of the self-teacher.

The floor of a method is its forward passes without gradient, one forward and backward pass, gradient clipping and
fused Adam, on the same network and batch. Steps and floors are timed in turn; the median of the ratios is printed.

    python tests/benchmarks/training_step.py [--rounds 30] [--steps 20] [--json]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time

import torch

from tractbench.config.resolve import resolve
from tractbench.teachers.load import load_teacher
from tractbench.training.distillation import Distillation

FORWARDS = {"btd": (2, 0), "tract": (1, 1), "tract_edm": (2, 1)}
"""Forward passes without gradient of teacher and self-teacher, networks of the same shape, in each method's target."""


def floor(run: Distillation, forwards: tuple[int, int]):
    """Return a function that does the bare passes of one step."""
    network = copy.deepcopy(run.student)
    frozen = [network for passes in forwards for network in [copy.deepcopy(run.teacher)] * passes]
    parameters = list(network.parameters())
    optimiser = torch.optim.Adam(parameters, lr=run.config.lr, fused=True)
    batch = run.draw(run.plans[0].phase, 0.0)
    target = torch.zeros_like(batch.x0)

    def step() -> None:
        with torch.no_grad():
            for denoiser in frozen:
                denoiser(batch.x_t, batch.times.t)
        loss = (network(batch.x_t, batch.times.t) - target).square().flatten(1).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, run.config.clip_norm)
        optimiser.step()

    return step


def seconds(step, steps: int) -> float:
    """Return the mean time of a step."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - started) / steps


def measure(method_name: str, rounds: int, steps: int) -> dict[str, float | str]:
    """Return the ratio of a method's training step to its floor."""
    config, method, dataset = resolve({"method": method_name, "dataset": "digits"})
    torch.set_num_threads(dataset.workload.threads or torch.get_num_threads())
    teacher = load_teacher(config.teacher, dataset, config.process, config.grid_steps)
    assert isinstance(teacher.denoiser, torch.nn.Module)
    frozen = teacher.denoiser.requires_grad_(False).eval()
    run = Distillation(config, method, teacher.process, frozen, dataset.train, decode=dataset.decode)
    bare = floor(run, FORWARDS[method_name])
    seconds(bare, steps), seconds(run.train_step, steps)
    pairs = [(seconds(run.train_step, steps), seconds(bare, steps)) for _ in range(rounds)]
    return {
        "method": method_name,
        "ratio": statistics.median(ours / least for ours, least in pairs),
        "step_ms": 1e3 * statistics.median(ours for ours, _ in pairs),
        "floor_ms": 1e3 * statistics.median(least for _, least in pairs),
    }


def main() -> None:
    """Print one line, or one JSON object, for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for name in FORWARDS:
        row = measure(name, arguments.rounds, arguments.steps)
        if arguments.json:
            print(json.dumps(row))
        else:
            print(f"{name}: {row['ratio']:.3f} of the floor ({row['step_ms']:.2f} ms against {row['floor_ms']:.2f} ms)")


if __name__ == "__main__":
    main()
