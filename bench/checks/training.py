"""Whether a component's training can be stopped and goes on to the same bits, and whether a whole run works."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from tractbench.checks.case import Case
from tractbench.checks.finding import inapplicable, require, untouched
from tractbench.pipeline.run import run as make_run
from tractbench.pipeline.runtime import Runtime
from tractbench.progress import Progress
from tractbench.results.store import Store
from tractbench.seeds import generator
from tractbench.teachers.load import new_denoiser
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation

STUDENT = "0" * 64


def check_resume(case: Case) -> str:
    """Check that a training that is saved and gone on with has the bits of one that never stopped."""
    if not case.method.trains:
        inapplicable("it trains nothing")
    with closing(_distillation(case)) as whole:
        _steps(whole, whole.total)
        expected = _tensors(whole)
        total = whole.total
    for stop in dict.fromkeys((2, total - 2)):
        with TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder), STUDENT)
            with closing(_distillation(case)) as first:
                _steps(first, stop)
                checkpoints.save(first.state())
            saved = checkpoints.newest()
            assert saved is not None
            with closing(_distillation(case)) as second:
                second.restore(saved)
                _steps(second, total)
                found = _tensors(second)
        other = [name for name, value in expected.items() if not _same(value, found.get(name))]
        require(
            not other and found.keys() == expected.keys(),
            f"after a stop at step {stop} of {total}, {', '.join(other[:3]) or 'something'} is another one",
            "keep what changes in training in parameters and buffers of parameterise() and modules(), not in "
            "attributes; begin them the same way each time",
        )
    return f"the same bits after stops at steps 2 and {total - 2} of {total}"


def _distillation(case: Case) -> Distillation:
    """Return a new distillation of a small network with its own classes, from random weights."""
    dataset, process, config = case.dataset, case.process, case.config
    names = [name for name, network in dataset.workload.networks.items() if process.name in network]
    if not names:
        inapplicable(f"data set '{dataset.name}' has no network for process '{process.name}'")

    def network(name: str) -> nn.Module:
        preset = dataset.network(name, process.name)
        return new_denoiser(preset, process, generator("check", "weights", name))

    teacher = network(config.student or names[0]).requires_grad_(False).eval()
    images = dataset.train[:64]
    return untouched(
        "setting up training",
        lambda: Distillation(
            config,
            case.method,
            process,
            teacher,
            images,
            decode=dataset.decode,
            new_network=network,
            labels=dataset.train_labels[:64] if dataset.train_labels is not None else None,
        ),
    )


def _steps(run: Distillation, until: int) -> None:
    while run.step < until:
        run.train_step()


def _tensors(run: Distillation) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.state().tensors.items()}


def _same(value: Tensor, other: Tensor | None) -> bool:
    return other is not None and torch.equal(value, other)


def check_run(case: Case) -> str:
    """Check that a small run works from its teacher to its record."""
    with TemporaryDirectory() as folder:
        store = Store(Path(folder) / "runs", create=True)
        outcome = untouched(
            "a run", lambda: make_run(case.config, case.method, case.dataset, store, Progress(), Runtime())
        )
    record = outcome.record
    scores = ", ".join(f"{name} {metric.mean:.3g}" for name, metric in record.metrics.items())
    require(record.status == "done", f"the run ended as {record.status}", "see its message")
    bad = [name for name, metric in record.metrics.items() if not math.isfinite(metric.mean)]
    require(not bad, f"{', '.join(bad)} is not finite", "look at the student's images")
    return f"{case.dataset.name}: {scores} in {record.seconds.total:.1f} s"
