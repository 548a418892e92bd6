"""``tractbench evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tractbench.cli.options import Device, Json, Quiet, chosen_device, progress
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError, RunFailedError, StoreError

if TYPE_CHECKING:
    from tractbench.evaluation.evaluate import Evaluation
    from tractbench.evaluation.self_check import Check


def evaluate(
    path: Annotated[
        Path | None,
        typer.Argument(help="Samples: a run's folder, a folder or zip of PNG files, .npz, or .pt of one tensor."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set that the samples imitate; the self-check takes digits without it.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="tract, edm, adm, clean, raw, or all. [default: the data set's]")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, help="Images in one set. [default: the protocol's number]")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Only these metrics: fid,kid. [default: all]")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Inception weights instead of the published ones: no score is a FID then.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="Reference statistics that others made: .npz with mu and sigma.")
    ] = None,
    allow_deviation: Annotated[
        bool, typer.Option("--allow-deviation", help="Score samples of another number or size, and say so.")
    ] = False,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Score real images instead and compare with torch-fidelity.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for scores and manifest as JSON.")] = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score samples, whoever made them, the way a paper did, and say exactly how.

    Examples:
      tractbench evaluate samples/ --dataset cifar10
      tractbench evaluate samples.npz --dataset cifar10 --protocol all --samples 10000 --allow-deviation
      tractbench evaluate runs/cells/tract-digits-small-nfe1-seed0-...
      tractbench evaluate --self-check
    """
    from tractbench.evaluation.evaluate import Settings, protocols_of
    from tractbench.evaluation.evaluate import evaluate as score
    from tractbench.evaluation.images import open_samples
    from tractbench.io.files import check_writable, write_atomic
    from tractbench.registry import load_dataset
    from tractbench.results.store import RECORD
    from tractbench.training.numerics import precision

    where = chosen_device(device)
    if out:
        check_writable(out)
    made = None
    if path is not None and (path / RECORD).is_file():
        from tractbench.pipeline.rescore import run_samples

        made, config = run_samples(path, where, samples)
        if dataset not in (None, config.dataset):
            raise ConfigError(f"dataset {dataset!r}: the run in {path} is of '{config.dataset}'; leave it out")
        dataset, samples = config.dataset, made.count // len(config.sampling_seeds)
    if dataset is None and not self_check:
        raise ConfigError("no dataset given; add --dataset NAME (see 'tractbench list datasets')")
    data = load_dataset(dataset or "digits")
    protocols = protocols_of(data, protocol)
    if self_check:
        if path is not None or len(protocols) > 1:
            raise ConfigError("--self-check scores real images under one protocol; leave samples and 'all' out")
        from tractbench.evaluation.extractors.inception import choose_weights
        from tractbench.evaluation.self_check import self_check as check

        with data.computing():
            checks = check(data, protocols[0], choose_weights(weights), samples, where, progress(quiet))
        _print_checks(checks, data.name, protocols[0].name, as_json)
        return
    if path is None:
        raise ConfigError("no samples given; give a folder or zip of PNG files, an .npz or a .pt file")
    settings = Settings(
        samples=samples,
        metrics=tuple(name.strip() for name in metrics.split(",")) if metrics is not None else None,
        weights=weights,
        statistics=statistics,
        allow_deviation=allow_deviation,
        device=where,
        labels="seeded per image" if made else "unknown",
        seeds=config.sampling_seeds if made else (),
    )
    with data.computing(), precision("fp32", where):
        found = made or open_samples(path)
        evaluations = [score(found, data, chosen, settings, progress(quiet)) for chosen in protocols]
    text = to_json({"evaluations": [_object(evaluation) for evaluation in evaluations]}, indent=2)
    if as_json:
        print(text)
    elif not quiet:
        _print_scores(evaluations)
    if out:
        try:
            write_atomic(out, text + "\n")
        except StoreError:
            if quiet and not as_json:
                print(text)  # else an hour's scores are lost
            raise


def _object(evaluation: Evaluation) -> dict[str, Any]:
    first = next(iter(evaluation.scores))
    return {
        "protocol": evaluation.manifest.protocol,
        "metric": first,
        "quoted": evaluation.quoted,
        "scores": {name: list(values) for name, values in evaluation.scores.items()},
        "manifest": evaluation.manifest.model_dump(mode="json"),
    }


def _print_scores(evaluations: list[Evaluation]) -> None:
    """Print a row a metric and a column a protocol, and under them what the figures are."""
    from tractbench.cli.console import format_metric, print_table
    from tractbench.results.record import Metric

    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.scores))
    headers = {"metric": "left"} | {evaluation.manifest.protocol: "right" for evaluation in evaluations}
    rows = [
        [name, *(format_metric(Metric.of(e.scores[name])) if name in e.scores else "-" for e in evaluations)]
        for name in names
    ]
    print_table(headers, rows)
    if len(evaluations) > 1:
        print("the same samples under every protocol: no figure compares with one in another column")
    for evaluation in evaluations:
        for line in _lines(evaluation):
            print(line)


def _lines(evaluation: Evaluation) -> list[str]:
    manifest = evaluation.manifest
    of = f" of {manifest.protocol_sets}" if manifest.protocol_sets else ""
    first = next(iter(evaluation.scores))
    lines = [
        f"{manifest.protocol}: {first} {evaluation.quoted:.4f}, {manifest.reported} over {manifest.sets}{of} sets of "
        f"{manifest.samples:,} samples; resize {manifest.resize}, quantise {manifest.quantise}",
        f"  statistics: {manifest.basis.statistics}; images sha256 {manifest.images[:12]}",
    ]
    if not manifest.basis.verified:
        lines.append("  NOT A FID: the weights are not the published Inception weights")
    return lines + [f"  DEVIATION: {deviation}" for deviation in manifest.deviations]


def _print_checks(checks: tuple[Check, ...], dataset: str, protocol: str, as_json: bool) -> None:
    import dataclasses

    from tractbench.cli.console import print_table

    if as_json:
        objects = [dataclasses.asdict(check) for check in checks]
        print(to_json({"dataset": dataset, "protocol": protocol, "checks": objects}))
    else:
        state = {True: "yes", False: "NO", None: "-"}
        rows = [[check.name, f"{check.value:.3g}", check.expected, state[check.passed]] for check in checks]
        print(f"{dataset}, protocol {protocol}")
        print_table({"check": "left", "found": "right", "must be": "left", "is": "left"}, rows)
    failed = [check.name for check in checks if check.passed is False]
    if failed:
        raise RunFailedError(f"self-check failed: {failed[0]}; reinstall torch, numpy and torch-fidelity")
