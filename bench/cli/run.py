"""``tractbench run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tractbench.cli.options import Json, Quiet, Runs, Settings, chosen_device, parse_settings, progress
from tractbench.errors import RunFailedError

if TYPE_CHECKING:
    from tractbench.config.fields import RunConfig
    from tractbench.results.record import Record


def run(
    method: Annotated[str | None, typer.Option(help="Method, such as tract or ddim (see 'list methods').")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set, such as digits (see 'list datasets').")] = None,
    nfe: Annotated[int | None, typer.Option(help="Network evaluations per image when sampling.")] = None,
    tier: Annotated[str | None, typer.Option(help="Preset of the data set: how much evidence the run gives.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Steps before, between and after phases: 1024,32,1.")] = None,
    budget: Annotated[str | None, typer.Option(help="Training images over all phases: 512K, 96M (K = 1,024).")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed.")] = None,
    sampling_seeds: Annotated[str | None, typer.Option(help="Sampling seeds: 0,1,2 or 0-4.")] = None,
    samples: Annotated[int | None, typer.Option(help="Images for each sampling seed.")] = None,
    mu_s: Annotated[float | None, typer.Option(help="Self-teacher momentum.")] = None,
    mu_i: Annotated[float | None, typer.Option(help="Inference momentum; else from the EMA residual.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images in one training step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    process: Annotated[str | None, typer.Option(help="Diffusion process of the teacher.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher: a shipped name or the path of a card (.toml).")] = None,
    setting: Settings = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; flags win over it.")] = None,
    runs: Runs = Path("runs"),
    force: Annotated[bool, typer.Option("--force", help="Run again although the result is there.")] = False,
    sample_batch: Annotated[
        int | None, typer.Option(min=1, help="Images held together while sampling; never changes a result.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Inception weights instead of the published ones; no score is a FID then.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Distil a teacher with a method, sample the student, score it and record everything.

    The same command again finds the result done; an interrupted one goes on where it stopped.

    Examples:
      tractbench run --method tract --dataset digits --nfe 1
      tractbench run --method ddim --dataset digits --nfe 4 --json
      tractbench run --method tract --dataset digits --schedule 1024,1 --budget 256K --set loss_weight=uniform
    """
    from tractbench.cli.console import interrupts, print_outcome
    from tractbench.config.resolve import read_config_file, resolve
    from tractbench.pipeline.run import Runtime
    from tractbench.pipeline.run import run as make_run
    from tractbench.results.store import Store

    flags: dict[str, object] = {
        "method": method, "dataset": dataset, "nfe": nfe, "tier": tier, "schedule": schedule, "budget": budget,
        "seed": seed, "sampling_seeds": sampling_seeds, "samples": samples, "mu_s": mu_s, "mu_i": mu_i,
        "batch": batch, "lr": lr, "process": process, "teacher": teacher,
    }  # fmt: skip
    settings = read_config_file(config) if config else {}
    settings |= {key: value for key, value in flags.items() if value is not None}
    settings |= parse_settings(setting or [])
    resolved, chosen_method, chosen_dataset = resolve(settings)
    store = Store(runs, create=True)
    bar = progress(quiet)
    bar.message(_announce(resolved))
    try:
        with interrupts() as stop:
            runtime = Runtime(chosen_device(device), sample_batch, weights, force, stop)
            outcome = make_run(resolved, chosen_method, chosen_dataset, store, bar, runtime)
    except RunFailedError as error:
        if as_json:
            print(json.dumps({"status": "failed", "reason": str(error), "method": resolved.method,
                              "dataset": resolved.dataset, "nfe": resolved.nfe, "tier": resolved.tier}))  # fmt: skip
        raise
    if as_json:
        print(json.dumps(_run_object(outcome.record, outcome.reused, store.root)))
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
