"""``tractbench run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tractbench.cli.interrupts import interrupts
from tractbench.cli.options import (
    CheckpointEvery,
    Device,
    Features,
    Json,
    Neighbours,
    Quiet,
    Runs,
    checkpoint_seconds,
    progress,
    with_plugins,
    with_settings,
)
from tractbench.cli.output import to_json
from tractbench.cli.processes import processes
from tractbench.errors import InterruptedRunError, TractbenchError

if TYPE_CHECKING:
    from tractbench.config.fields import RunConfig
    from tractbench.results.record import Record


@with_plugins
@with_settings
def run(
    settings: dict[str, object],
    runs: Runs = Path("runs"),
    features: Features = None,
    neighbours: Neighbours = False,
    force: Annotated[bool, typer.Option("--force", help="Run again although the result is there.")] = False,
    sample_batch: Annotated[
        int | None, typer.Option(min=1, help="Images held together while sampling; never changes a result.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Inception weights instead of the published ones; no score is a FID then.")
    ] = None,
    checkpoint_every: CheckpointEvery = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Examples whose training passes run together, where memory is short.")
    ] = None,
    compiling: Annotated[
        bool,
        typer.Option("--compile", help="Compile the networks (torch.compile); numbers differ by rounding."),
    ] = False,
    track: Annotated[
        str | None,
        typer.Option(help="Send curves, scores and pictures to tensorboard, wandb, mlflow or trackio."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a teacher with a method, sample the student, score it and record everything.

    The same command again finds the result done; an interrupted one goes on where it stopped. Ctrl-C, SIGTERM,
    SIGHUP and SIGUSR1 save and stop, with exit status 130, 143, 129 and 75; a failed run ends with 1, an impossible one
    with 2. Under torchrun or accelerate launch several processes share one run.

    Examples:
      tractbench run --method tract --dataset digits --nfe 1
      tractbench run --method ddim --dataset digits --nfe 4 --json
      tractbench run --method tract --dataset digits --schedule 1024,1 --budget 256K --set loss_weight=uniform
      tractbench run --method tract --dataset cifar10 --nfe 1 --features dinov2,clip --neighbours
    """
    from tractbench.cli.console import print_outcome
    from tractbench.config.resolve import resolve
    from tractbench.evaluation.protocols import with_additions
    from tractbench.pipeline.run import run as make_run
    from tractbench.pipeline.runtime import Runtime
    from tractbench.pipeline.tracking import make_tracker
    from tractbench.results.store import Store

    with processes(device) as group:
        resolved, chosen_method, chosen_dataset = resolve(settings)
        if features is not None or neighbours:
            protocol = with_additions(resolved.protocol, features, neighbours)
            resolved, chosen_method, chosen_dataset = resolve(settings | {"protocol": protocol})
        tracker = make_tracker(track if group.is_main else None)
        store, every = Store(runs, create=True), checkpoint_seconds(checkpoint_every)
        group.barrier()  # until every process has seen the store as it was
        bar = progress(quiet or not group.is_main)
        bar.message(_announce(resolved))
        try:
            with interrupts(group) as stop:
                runtime = Runtime(
                    group.device, sample_batch, weights, force, every, stop, group, micro_batch, compiling, tracker
                )
                outcome = make_run(resolved, chosen_method, chosen_dataset, store, bar, runtime)
        except TractbenchError as error:
            if as_json and group.is_main:
                status = "interrupted" if isinstance(error, InterruptedRunError) else "failed"
                names = {name: getattr(resolved, name) for name in ("method", "dataset", "nfe", "tier")}
                print(to_json({"status": status, "reason": str(error), **names}))
            raise
        if not group.is_main:
            return
        if as_json:
            print(to_json(_run_object(outcome.record, outcome.reused, store.root)))
        elif not quiet:
            print_outcome(outcome.record, outcome.reused, store.root)


def _announce(config: RunConfig) -> str:
    from tractbench.config.numbers import format_budget

    steps = " -> ".join(map(str, config.schedule))
    training = f"schedule {steps}, budget {format_budget(config.budget)}, batch {config.batch}, " if steps else ""
    options = "".join(f", {key} {value}" for key, value in config.options.items())
    return (
        f"{config.method} on {config.dataset} ({config.tier}), {config.nfe} NFE: {training}seed {config.seed}, "
        f"teacher {config.teacher}, {len(config.sampling_seeds)} x {config.samples} samples{options}"
    )


def _run_object(record: Record, reused: bool, root: Path) -> dict[str, Any]:
    config = record.config
    return {
        "status": record.status,
        "reused": reused,
        "identity": record.identity,
        "method": config.method,
        "dataset": config.dataset,
        "nfe": config.nfe,
        "nfe_spent": record.nfe_spent,
        "tier": config.tier,
        "schedule": list(config.schedule),
        "run_dir": str(root / record.folder),
        "seconds": record.seconds.total,
        "metrics": {name: metric.model_dump(mode="json") for name, metric in record.metrics.items()},
        "floors": record.floors,
    }
