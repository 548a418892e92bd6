"""How many images a second the Inception network takes, as a ratio to torch-fidelity's, measured in the same run.

    python tests/benchmarks/inception.py [--images 8] [--rounds 3] [--device cpu] [--size 32]

Both have random weights, which change no time; rounds of both alternate.
"""

import argparse
import statistics
import time
import warnings

import torch

from tractbench.evaluation.extractors.inception import Inception, untrained_network

warnings.simplefilter("ignore")


def seconds(work, device):
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    images = torch.randint(0, 256, (arguments.images, 3, arguments.size, arguments.size), dtype=torch.uint8)
    theirs, ours = untrained_network().to(arguments.device), Inception.untrained(arguments.device)
    on_device = images.to(arguments.device)
    works = {"torch-fidelity": lambda: theirs(on_device)}
    works |= {name: lambda name=name: ours(images, name) for name in ("tensorflow", "torch", "clean")}
    with torch.no_grad():
        for work in works.values():
            seconds(work, arguments.device)
        rounds = [[seconds(work, arguments.device) for work in works.values()] for _ in range(arguments.rounds)]
    base = statistics.median(row[0] for row in rounds)
    print(f"torch-fidelity: {arguments.images / base:.2f} images/s")
    for index, name in enumerate(works):
        if index:
            ratio = statistics.median(row[0] / row[index] for row in rounds)
            rate = arguments.images / statistics.median(row[index] for row in rounds)
            print(f"ours, {name} resize: {rate:.2f} images/s, {ratio:.2f} of torch-fidelity's speed")


if __name__ == "__main__":
    main()
