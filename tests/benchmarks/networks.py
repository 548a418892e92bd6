"""What share of the device's measured matrix-product peak the published networks reach, and where the rest goes.

    python tests/benchmarks/networks.py                       # every preset, both memory formats
    python tests/benchmarks/networks.py --preset ncsn++-cifar10 --batch 8 --device cuda --dtype bfloat16

FLOPs are those of convolutions, attention and matrix products as torch counts them. The peak is the fastest of several
square matrix products of the same dtype, measured in the same run. "Other" is the share of the operators' time that is
not convolution, attention or matrix product: norms, activations, resampling, additions, copies.
"""

import argparse
import time

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from tractbench.nets.architectures import architectures
from tractbench.nets.build import build_network

PRESETS = {
    name: (found.network, found.arguments) for name, found in architectures().items() if "size" in found.arguments
}
HEAVY = ("conv", "attention", "mm", "gemm", "linear", "matmul")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def seconds(work, device, rounds):
    """The least time of a few calls, after one to warm up."""
    work()
    times = []
    for _ in range(rounds):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)


def matrix_peak(device, dtype):
    """FLOP/s of the fastest square matrix product."""
    best = 0.0
    for size in (1024, 2048, 4096) if device == "cpu" else (4096, 8192):
        a, b = torch.randn(2, size, size, device=device, dtype=dtype)
        best = max(best, 2 * size**3 / seconds(lambda a=a, b=b: a @ b, device, 5))
    return best


def other_share(work, device):
    """Share of the operators' own time that is not convolution, attention or matrix product."""
    activities = [ProfilerActivity.CUDA] if device == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as found:
        work()
    column = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    times = [(event.key.lower(), getattr(event, column)) for event in found.key_averages()]
    heavy = sum(spent for key, spent in times if any(word in key for word in HEAVY))
    return 1 - heavy / sum(spent for _, spent in times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, action="append", help="only this one; repeatable")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="autocast to it")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    peak = matrix_peak(options.device, dtype)
    print(f"matrix-product peak {peak / 1e9:.0f} GFLOP/s, {options.device}, {options.dtype}, batch {options.batch}")
    print(f"{'preset':32} {'format':14} {'GFLOP/image':>11} {'forward':>8} {'fwd/bwd':>8} {'other':>6}")
    for label in options.preset or PRESETS:
        name, arguments = PRESETS[label]
        for memory, layout in FORMATS.items():
            network = build_network(name, arguments, torch.Generator().manual_seed(0)).to(options.device)
            network = network.to(memory_format=layout)
            x = torch.randn(options.batch, 3, arguments["size"], arguments["size"], device=options.device)
            x = x.to(memory_format=layout)
            noise = torch.zeros(options.batch, device=options.device)
            classes = arguments.get("classes", 0)
            labels = torch.zeros(options.batch, dtype=torch.int64, device=options.device) if classes else None

            def forward(network=network, x=x, noise=noise, labels=labels):
                with torch.no_grad(), torch.autocast(options.device, dtype, enabled=dtype != torch.float32):
                    return network(x, noise, labels)

            def both(network=network, x=x, noise=noise, labels=labels):
                network.zero_grad()
                with torch.autocast(options.device, dtype, enabled=dtype != torch.float32):
                    out = network(x, noise, labels)
                out.float().square().sum().backward()

            shares = []
            for work in (forward, both):
                with FlopCounterMode(display=False) as counter:
                    work()
                shares.append(counter.get_total_flops() / seconds(work, options.device, options.rounds) / peak)
                if work is forward:
                    flops = counter.get_total_flops() / options.batch
            print(
                f"{label:32} {memory:14} {flops / 1e9:11.1f} {shares[0]:8.0%} {shares[1]:8.0%} "
                f"{other_share(both, options.device):6.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
