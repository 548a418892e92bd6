"""``tractbench plan`` and ``tractbench doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from tractbench.cli.options import Device, Json, Quiet, Runs, chosen_device, progress, with_settings


@with_settings
def plan(
    settings: dict[str, object],
    runs: Runs = Path("runs"),
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a run needs that is missing, and project its hours from a short measurement of this machine.

    Nothing is fetched and nothing is written. Exit status 0 whether the run could start or not.

    Examples:
      tractbench plan --method tract --dataset imagenet64 --nfe 1
      tractbench plan --method tract_edm --dataset cifar10 --nfe 2 --json
    """
    from tractbench.cli.console import print_table
    from tractbench.config.resolve import resolve
    from tractbench.pipeline.plan import make_plan

    resolved, chosen, data = resolve(settings)
    with data.computing():
        made = make_plan(resolved, chosen, data, runs, chosen_device(device), progress(quiet or as_json))
    hours = sum(stage.hours for stage in made.stages)
    if as_json:
        stages = [asdict(stage) | {"hours": stage.hours} for stage in made.stages]
        print(json.dumps({"ready": made.ready, "device": made.device, "devices": made.devices,
                          "parameters": made.parameters, "hours": hours,
                          "needs": [asdict(need) for need in made.needs], "stages": stages}))  # fmt: skip
        return
    print_table(
        {"needs": "left", "": "left", "what": "left"},
        [[need.name, "yes" if need.present else "MISSING", need.detail] for need in made.needs],
    )
    print_table(
        {"stage": "left", "images": "right", "images/s": "right", "hours": "right"},
        [[s.name, f"{s.images:,}", f"{1 / s.seconds_per_image:,.3g}", f"{s.hours:,.2f}"] for s in made.stages]
        + [["all", "", "", f"{hours:,.2f}"]],
    )
    cpu = made.device.startswith("CPU")
    there = "" if cpu else f", of {made.devices} here; a run uses one"
    print(f"{hours:,.1f} {'hours' if cpu else 'GPU-hours'} on {made.device}{there}.")
    print("It could start now." if made.ready else "It cannot start before what is MISSING is here.")


def doctor(runs: Runs = Path("runs"), as_json: Json = False) -> None:
    """Say what this machine has: versions, devices, caches, data, teachers, tools."""
    from tractbench.cli.doctor import examine

    findings = examine(runs)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
        return
    for finding in findings:
        print(f"{'ok     ' if finding.good else 'missing'} {finding.name}: {finding.detail}")
