"""Error rates and power of looking more than once, by simulation: ``python tests/benchmarks/looks.py [DRAWS]``.

For t tests on normal differences: how often "add seeds until it decides" errs at the level, without looks (the fixed
test at each of them), with ours, and with Lan and DeMets' boundaries from the joint normal distribution, read as levels
of t tests; and the power at effects where the fixed test of as many seeds has 50%, 80% and 90%. Then for all claims of
the digits table at their edge: how often a report has one wrong verdict in either direction.
"""

import sys

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr
from scipy.stats import norm

from tractbench.claims.loading import load_tables
from tractbench.reports.evidence import Evidence
from tractbench.reports.verdicts.claims import judge_claims
from tractbench.results.sequential import shares
from tractbench.results.statistics import paired_seeds

SCHEDULES = [(5, 10), (5, 10, 20), (5, 10, 20, 40), (5, 8, 12, 20), (5, 10, 15, 20)]
CLASSES = {"O'Brien-Fleming": lambda t, a: 2 * ndtr(ndtri(a / 2) / t**0.5),
           "Pocock": lambda t, a: a * np.log1p((np.e - 1) * t)}  # fmt: skip


def boundaries(looks, level, spending):
    """One-sided normal critical values at each look, [looks]: Lan and DeMets 1983, by recursive integration."""
    times, nodes, found, spent = np.array(looks) / looks[-1], np.polynomial.legendre.leggauss(300), [], 0.0
    grid = weights = density = None
    for k, time in enumerate(times):
        step, spent = spending(time, level) - spent, spending(time, level)
        if k == 0:
            bound = -ndtri(step) * time**0.5
        else:
            width = (time - times[k - 1]) ** 0.5

            def beyond(b, grid=grid, mass=density * weights, width=width, step=step):
                return (mass * ndtr((grid - b) / width)).sum() - step

            bound = brentq(beyond, -9, 9)
        found.append(bound / time**0.5)
        low, old, mass = -9 * time**0.5, grid, None if k == 0 else density * weights
        grid, weights = (bound - low) / 2 * nodes[0] + (bound + low) / 2, (bound - low) / 2 * nodes[1]
        density = norm.pdf(grid, scale=time**0.5) if k == 0 else norm.pdf(grid[:, None], old, width) @ mass
    return np.array(found)


def p_values(random, looks, mean, draws):
    """One-sided p values of t tests at each look, [draws, looks]."""
    total, squares, n, found = np.zeros(draws), np.zeros(draws), 0, []
    for look in looks:
        for _ in range(n, look):
            value = random.normal(mean, 1, draws)
            total, squares = total + value, squares + value**2
        n = look
        std = np.sqrt((squares - total**2 / n) / (n - 1))
        found.append(stdtr(n - 1, total / n / std * n**0.5))
    return np.stack(found, axis=1)


def tests(draws):
    """Print error rates and power of single tests."""
    random = np.random.default_rng(0)
    for looks in SCHEDULES:
        for level in (0.05, 0.05 / 9):
            own = p_values(random, looks, 0.0, draws)
            errors = {"no looks": (own <= level).any(1).mean(), "ours": (own / shares(looks) <= level).any(1).mean()}
            for name, spending in CLASSES.items():
                errors[name] = (own <= ndtr(-boundaries(looks, level, spending))).any(1).mean()
            print(f"{looks}: errors over a level of {level:.4f}:",
                  ", ".join(f"{name} {error / level:.3f}" for name, error in errors.items()))  # fmt: skip
        for power in (0.5, 0.8, 0.9):

            def seeds(mean, power=power, n=looks[-1]):
                return (paired_seeds(-mean, 1.0, power=power) or 999) - n - 0.5

            effect = brentq(seeds, 0.1, 3)
            own = p_values(random, looks, -effect, draws // 5)
            fixed, ours = (own[:, -1] <= 0.05).mean(), (own / shares(looks) <= 0.05).any(1).mean()
            print(f"{looks}: power {ours:.3f}, of the fixed test {fixed:.3f}, {1 - ours / fixed:.1%} less")


def reports(draws):
    """Print how often a report of the digits table errs, with all claims at their edge."""
    table = load_tables()["digits"]
    random, wrong = np.random.default_rng(1), {"reproduced": 0, "contradicted": 0}
    for _ in range(draws):
        shared = random.normal(0, 0.1, table.looks[-1])
        scores = {cell.id: np.exp(shared + random.normal(0, 0.05, len(shared))) for cell in table.cells.values()}
        decided = set()
        for seeds in table.looks:
            found = {name: Evidence(quoted=dict(enumerate(values[:seeds]))) for name, values in scores.items()}
            decided |= {verdict.verdict for verdict in judge_claims({"digits": table}, found).values()}
        for error in wrong:
            wrong[error] += error in decided
    for error, number in wrong.items():
        print(f"digits, looks {table.looks}: one wrong {error!r} or more in {number / draws:.1%} of {draws} reports")


if __name__ == "__main__":
    asked = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print("Lan and DeMets' boundaries, five looks at 2.5%:",
          *(f"{name} {boundaries((1, 2, 3, 4, 5), 0.025, s).round(3)}" for name, s in CLASSES.items()))  # fmt: skip
    tests(asked)
    reports(min(2000, asked // 100))
