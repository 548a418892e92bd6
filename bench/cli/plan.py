"""``tractbench plan``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli.options import Device, Json, Quiet, Runs, chosen_device, progress, with_plugins, with_settings
from tractbench.cli.output import to_json

if TYPE_CHECKING:
    from tractbench.pipeline.plan import Plan


@with_plugins
@with_settings
def plan(
    settings: dict[str, object],
    runs: Runs = Path("runs"),
    on: Annotated[
        str | None, typer.Option(metavar="MACHINE", help="Plan for another machine: 8xh100, a100, rtx4090, cpu ...")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time this machine for up to a minute.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a run needs that is missing, and project its hours and memory from counts of its operations.

    Nothing is fetched and nothing is written; no network runs for more than a moment. Exit status 0 whether the run
    could start or not.

    Examples:
      tractbench plan --method tract --dataset imagenet64 --nfe 1 --on 8xh100
      tractbench plan --method tract_edm --dataset cifar10 --nfe 2 --json
      tractbench plan --method tract --dataset digits --measure
    """
    from tractbench.config.resolve import resolve
    from tractbench.errors import ConfigError
    from tractbench.pipeline.plan import make_plan

    if on and measure:
        raise ConfigError(f"--on {on} --measure: only this machine can be timed; leave one of the two out")
    resolved, chosen, data = resolve(settings)
    bar = progress(quiet or as_json or not measure)
    with data.computing():
        made = make_plan(resolved, chosen, data, runs, chosen_device(device), bar, on=on, measure=measure)
    if as_json:
        print(to_json(_plan_object(made)))
    else:
        _print_plan(made)


def _plan_object(made: Plan) -> dict[str, object]:
    stages = [asdict(stage) | {"hours": stage.hours} for stage in made.stages]
    device = made.device.model_dump() | {"share_source": made.device.share_source}
    return {
        "ready": made.ready,
        "device": device,
        "devices": made.devices,
        "parameters": made.parameters,
        "hours": made.hours,
        "device_hours": made.device_hours,
        "needs": [asdict(need) | {"present": need.present} for need in made.needs],
        "stages": stages,
        "memory": asdict(made.memory) | {"total": made.memory.total},
        "changes": [asdict(change) for change in made.changes],
    }


def _print_plan(made: Plan) -> None:
    from tractbench.cli.console import print_table

    print_table(
        {"needs": "left", "": "left", "what": "left"}, [[need.name, need.state, need.detail] for need in made.needs]
    )
    print_table(
        {"stage": "left", "images": "right", "operations": "right", "images/s": "right", "hours": "right", "": "left"},
        [
            [s.name, f"{s.images:,}", f"{s.operations:.3g}", f"{made.devices / s.seconds_per_image:,.3g}"
             if s.seconds_per_image else "-", f"{s.hours:,.2f}", s.basis] for s in made.stages
        ] + [["all", "", "", "", f"{made.hours:,.2f}", ""]],
    )  # fmt: skip
    device, memory = made.device, made.memory
    cpu = device.name.startswith("CPU")
    print(f"{made.device_hours:,.1f} {'hours' if cpu else 'GPU-hours'} on {made.devices} x {device.name}.")
    peaks = ", ".join(f"{name} {peak:.3g}" for name, peak in device.peak.items())
    print(f"Peak in TFLOP/s: {peaks} ({device.source}).")
    print(f"Counted stages are taken to reach {device.share:.0%} of it: {device.share_source}.")
    detail = f", {memory.activations / 1e9:.3g} GB of it activations of {memory.images} images" * bool(memory.images)
    print(f"Memory of a device, estimated: {memory.total / 1e9:.3g} GB{detail}.")
    for change in made.changes:
        known = [f"{change.hours:,.2f} hours"] if change.hours is not None else []
        known += [f"{change.memory / 1e9:.3g} GB"] if change.memory is not None else []
        known += [change.note] if change.note else []
        print(f"  with {change.name}: {', '.join(known)}")
    print("It could start now." if made.ready else "It cannot start here before what is MISSING is here.")
