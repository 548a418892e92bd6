"""How much faster the Frechet distance of Inception features is than torch-fidelity's, measured in the same run.

    python tests/benchmarks/frechet.py [--dimensions 2048] [--rounds 3]

Features have variances that fall over five decades. Ours is timed with and without the reference's root at hand; the
relative difference of the figures is printed too.
"""

import argparse
import statistics
import time
import warnings

import torch

from tractbench.evaluation.fidelity import moments
from tractbench.evaluation.frechet import Gaussian, frechet_distance

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric


def fitted(dimensions, seed):
    """Mean and covariance of correlated features; those of another seed are a little different."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mixing *= torch.logspace(0, -2.5, dimensions, dtype=torch.float64)[:, None]
    rows = torch.randn(3 * dimensions, dimensions, dtype=torch.float64, generator=random)
    return moments(rows @ mixing / dimensions**0.5 + 0.01 * seed)


def timed(work):
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    samples, reference = fitted(arguments.dimensions, 1), fitted(arguments.dimensions, 2)
    theirs_in = [{"mu": g.mean.numpy(), "sigma": g.covariance.numpy()} for g in (samples, reference)]
    rounds = []
    for _ in range(arguments.rounds):
        theirs, figure = timed(lambda: fid_statistics_to_metric(*theirs_in, verbose=False)[KEY_METRIC_FID])
        fresh = Gaussian(reference.mean, reference.covariance)
        ours, found = timed(lambda fresh=fresh: frechet_distance(samples, fresh))
        cached, again = timed(lambda fresh=fresh: frechet_distance(samples, fresh))
        assert found == again
        rounds.append((theirs, ours, cached))
    theirs, ours, cached = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = [statistics.median(row[0] / row[i] for row in rounds) for i in (1, 2)]
    print(f"{arguments.dimensions} dimensions, median of {arguments.rounds}: torch-fidelity {theirs:.2f} s")
    print(
        f"ours {ours:.2f} s: {ratios[0]:.1f} times as fast; with the reference's root {cached:.2f} s: {ratios[1]:.1f}"
    )
    print(f"relative difference of the figures {abs(found / figure - 1):.1e}")


if __name__ == "__main__":
    main()
