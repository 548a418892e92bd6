"""``tractbench profile``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli.options import Device, Json, Quiet, chosen_device, progress, with_plugins, with_settings
from tractbench.cli.output import to_json

if TYPE_CHECKING:
    from tractbench.pipeline.profiles import Profile


@with_plugins
@with_settings
def profile(
    settings: dict[str, object],
    network: Annotated[
        str | None, typer.Option(help="One of the data set's networks instead of the teacher's architecture.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a Chrome trace of a few steps (chrome://tracing).")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure training, sampling and scoring on this machine against their network passes and its peak.

    Images are random and networks have random weights: neither data nor teacher nor results are needed.

    Examples:
      tractbench profile --method tract --dataset digits
      tractbench profile --method tract --dataset cifar10 --batch 2 --set chunk=4 --json
      tractbench profile --method btd --dataset digits --network mlp-third --trace trace.json
    """
    from tractbench.config.resolve import resolve
    from tractbench.pipeline.profile import make_profile

    resolved, chosen, data = resolve(settings)
    bar = progress(quiet or as_json)
    with data.computing():
        made = make_profile(resolved, chosen, data, chosen_device(device), bar, network=network, trace=trace)
    if as_json:
        print(to_json(asdict(made)))
    else:
        _print(made)


def _print(made: Profile) -> None:
    from tractbench.cli.console import print_table

    device, memory = made.device, made.memory
    print(f"{made.network}, random weights, on {device.name}; {device.precision}, ", end="")
    print(f"matrix-product peak {device.peak_flops / 1e12:.3g} TFLOP/s")
    train, sample, score = made.train, made.sample, made.score
    rows = [[
        "training", f"{train.images_per_s:,.4g}", f"{train.ratio:.3f}", f"{train.flops_share:.0%}"
    ]] if train else []  # fmt: skip
    rows.append(["sampling", f"{sample.images_per_s:,.4g}", f"{sample.ratio:.3f}", f"{sample.flops_share:.0%}"])
    share = f"{score.flops_share:.0%}" if score.flops_share is not None else "-"
    rows.append([score.what, f"{score.images_per_s:,.4g}", "-", share])
    print_table({"": "left", "images/s": "right", "of its passes": "right", "of the peak": "right"}, rows)
    if train:
        parts = {"network passes": train.floor_seconds, **train.parts}
        print_table(
            {"a training step": "left", "ms": "right", "share": "right"},
            [[name, f"{1e3 * spent:.3f}", f"{spent / train.step_seconds:.1%}"] for name, spent in parts.items()]
            + [["all", f"{1e3 * train.step_seconds:.3f}", "100.0%"]],
        )
    print(f"Memory: {memory.peak / 1e9:.3g} GB {memory.kind}.")
    print(f"{memory.state / 1e9:.3g} GB of weights and optimiser, {memory.activations / 1e9:.3g} GB of activations.")
