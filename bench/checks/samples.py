"""Whether a method's sampler steps where its students jump: an exact student's samples have the data's distribution."""

from __future__ import annotations

import torch

from tractbench.checks.case import Case
from tractbench.checks.exact import COVARIANCE, DIMENSIONS, MEAN, ExactStudent
from tractbench.checks.finding import inapplicable, require
from tractbench.diffusion.processes import Process
from tractbench.diffusion.sampler import Sampler
from tractbench.diffusion.solvers import sample_ode
from tractbench.errors import ConfigError
from tractbench.method import Method

OFF = 0.02
"""Of mean or covariance; sampling from the prior instead of the path's own end makes 0.005 on VE."""


def check_samples(case: Case, nfes: tuple[int, ...] = (1, 2, 4)) -> str:
    """Check that a student which solves the ODE exactly gives samples of one Gaussian's mean and covariance."""
    method, said = case.method, []
    if not method.trains:
        inapplicable("it trains nothing")
    for nfe in nfes:
        try:
            sampler = method.sampler(nfe, case.process)
        except ConfigError:
            continue
        if sampler.solver != "ddim":  # a student's jump is one DDIM step
            continue
        worst = _off(method, sampler, case.process, nfe)
        require(
            worst < OFF,
            f"a student that solves the ODE exactly, sampled in {nfe} evaluations, is off by {worst:.2g} in mean or "
            "covariance",
            "let sampler() step from where times() lets jumps start to where they end, add fresh noise after jumps to "
            "the clean end (Sampler.noise), or set two_times",
        )
        said.append(f"{nfe}: {worst:.1g}")
    if not said:
        inapplicable("its sampler takes no single jumps of the student")
    return f"off in mean and covariance by nfe {', '.join(said)}"


def _off(method: Method, sampler: Sampler, process: Process, nfe: int) -> float:
    """Return the largest error of mean and covariance of an exact student's samples.

    They are affine in their noises: the images of zero and of the unit vectors give the mean and a root of the
    covariance.
    """
    draws = 1 + len(sampler.noise)
    count = draws * DIMENSIONS
    noises = torch.zeros(1 + count, count, dtype=torch.float64)
    noises[1:] = torch.eye(count, dtype=torch.float64)
    first, *fresh = noises.reshape(1 + count, draws, DIMENSIONS, 1, 1).unbind(1)
    student = ExactStudent(process, 1 if method.any_nfe else nfe, method.two_times)
    samples = sample_ode(
        student, process, process.prior_std * first, sampler, fresh=fresh, two_times=method.two_times, clip=False
    ).flatten(1)
    mean, root = samples[0], samples[1:] - samples[0]
    covariance, wanted = torch.tensor(COVARIANCE, dtype=torch.float64), torch.tensor(MEAN, dtype=torch.float64)
    return max(float((root.T @ root - covariance).abs().max()), float((mean - wanted).abs().max()))
