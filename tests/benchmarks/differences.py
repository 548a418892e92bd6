"""Measures differences between two readings in docs/differences.md, on synthetic data and the shipped teacher.

    python tests/benchmarks/differences.py

Each line says what was compared and how far apart the two were. It takes less than a minute.
"""

import copy

import torch

from tractbench.diffusion.processes import load_process
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.evaluation.frechet import RunningMoments, frechet_distance
from tractbench.registry import load_dataset
from tractbench.seeds import generator
from tractbench.teachers.load import load_teacher
from tractbench.training.batches import BLOCK, draw_blocks
from tractbench.training.ema import BiasCorrectedEMA, LongEMA


def averages(updates: int, residual: float = 1e-3, parameters: int = 256) -> tuple[float, float]:
    """How far averages of a random walk in float32 and ours are from that in float64, relative to its largest value."""
    momentum = residual ** (1 / updates)
    walker = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(parameters))])
    exact = BiasCorrectedEMA(copy.deepcopy(walker).double(), momentum)
    single, ours = BiasCorrectedEMA(walker, momentum), LongEMA(walker, momentum)
    random = generator("averages")
    with torch.no_grad():
        for _ in range(updates):
            walker[0].add_(torch.randn(parameters, generator=random) * 1e-4)
            single.update([walker[0]])
            ours.update([walker[0]])
            exact.update([walker[0].double()])
        found = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(parameters, dtype=torch.float64))])
        ours.copy_to(found)
        true = exact.module[0]
        return tuple(float((value - true).abs().max() / true.abs().max()) for value in (single.module[0], found[0]))


def unseen(images: int, epochs: int) -> float:
    """The share of training images that as many draws as there are in so many epochs have never taken."""
    drawn = draw_blocks(0, 0, range(images * epochs // BLOCK), images=images, shape=(1, 1, 1), flips=False).index
    return 1 - len(drawn.unique()) / images


def reference(images: int, left_out: int, dimensions: int = 128) -> tuple[float, float]:
    """The Frechet distance of 10,000 synthetic features to all of a reference set, and to all but the last ones."""
    scale = torch.arange(1, dimensions + 1, dtype=torch.float64).rsqrt()
    features = torch.randn((images, dimensions), generator=generator("reference"), dtype=torch.float64) * scale
    samples = 1.1 * torch.randn((10_000, dimensions), generator=generator("samples"), dtype=torch.float64) * scale

    def moments(rows):
        sums = RunningMoments(torch.zeros(dimensions, dtype=torch.float64))
        sums.add(rows)
        return sums.gaussian()

    scored = moments(samples)
    whole, part = (frechet_distance(scored, moments(rows)) for rows in (features, features[:-left_out]))
    return whole, part


def half(steps: int) -> float:
    """How far images of the shipped digits teacher in float16 are from those in float32, relative to the largest."""
    process, data = load_process("vp", 1024), load_dataset("digits")
    single = load_teacher("digits-vp", data, process).denoiser
    rounded = copy.deepcopy(single).half().float()  # what is imported from a file in half precision
    halves = copy.deepcopy(single).half()
    noise = torch.randn((64, *data.shape), generator=generator("half"))
    with torch.no_grad():
        ends = [sample_ode(net, process, noise, Sampler.equal(steps)) for net in (rounded, halves)]
    return float((ends[0] - ends[1]).abs().max() / ends[0].abs().max())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for updates in (1_000, 10_000, 50_000):
        single, ours = averages(updates)
        print(f"averages of {updates:,} updates, r 0.001: float32 off by {single:.1e}, here {ours:.1e}")
    for epochs in (1, 4, 16):
        print(f"images never drawn after {epochs} epochs of 50,000: {unseen(50_000, epochs):.2%}; shuffled: 0")
    whole, part = reference(50_000, 80)
    share = part / whole - 1
    print(f"Frechet distance of synthetic features: {whole:.5f} to 50,000, {part:.5f} to 49,920 ({share:+.1e})")
    for steps in (1, 16, 256):
        print(f"digits-vp in float16 against its rounded weights in float32, {steps} DDIM steps: {half(steps):.1e}")
