"""``tractbench evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tractbench.cli import completion
from tractbench.cli.options import Device, Features, Json, Neighbours, Quiet, chosen_device, progress, with_plugins
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError, RunFailedError, StoreError, choose

if TYPE_CHECKING:
    from tractbench.datasets.base import Dataset
    from tractbench.evaluation.evaluate import Evaluation
    from tractbench.evaluation.sample_set import Layout, Range, Reading, SampleSet
    from tractbench.evaluation.self_check import Check

PREVIEW_IMAGES, PREVIEW_COLUMNS = 64, 8


@with_plugins
def evaluate(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="A run's folder; a folder, zip or tar of PNG files; .npz, .npy or .pt files. Several are shards.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Data set that the samples imitate; the self-check takes digits without it.",
            autocompletion=completion.dataset,
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="tract, edm, adm, clean, raw, or all.", show_default="the data set's")
    ] = None,
    features: Features = None,
    neighbours: Neighbours = False,
    samples: Annotated[
        int | None, typer.Option(min=2, help="Images in one set.", show_default="the protocol's number")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Only these metrics: fid,kid.", show_default="all")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Inception weights instead of the published ones: no score is a FID then.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="Reference statistics that others made: .npz with mu and sigma, or EDM2's .pkl.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Order of an array's axes where it is not clear: nchw, nhwc.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Which array of a file with several.")] = None,
    values: Annotated[
        str | None,
        typer.Option("--range", help="What numbers are where it is not clear: signed [-1, 1], unit [0, 1], or levels."),
    ] = None,
    preview: Annotated[Path | None, typer.Option(help="PNG file for a contact sheet of what was read.")] = None,
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
      tractbench evaluate 'shards/*.npz' --dataset cifar10 --preview sheet.png
      tractbench evaluate samples.npz --dataset cifar10 --features dinov2,clip --neighbours
      tractbench evaluate runs/cells/tract-digits-small-nfe1-seed0-...
      tractbench evaluate --self-check
    """
    from tractbench.evaluation.evaluate import Settings, protocols_of
    from tractbench.evaluation.evaluate import evaluate as score
    from tractbench.evaluation.images import KINDS, open_samples
    from tractbench.evaluation.protocols import load_protocol, with_additions
    from tractbench.io.files import check_writable, write_atomic
    from tractbench.registry import load_dataset
    from tractbench.results.store import RECORD
    from tractbench.training.numerics import precision

    where = chosen_device(device)
    if out:
        check_writable(out)
    made, path = None, paths[0] if paths else None
    if path is not None and len(paths or ()) == 1 and (path / RECORD).is_file():
        from tractbench.pipeline.rescore import run_samples

        made, config = run_samples(path, where, samples)
        if dataset not in (None, config.dataset):
            raise ConfigError(f"dataset {dataset!r}: the run in {path} is of '{config.dataset}'; leave it out")
        dataset, samples = config.dataset, made.count // len(config.sampling_seeds)
    if dataset is None and not self_check:
        raise ConfigError("no dataset given; add --dataset NAME (see 'tractbench list datasets')")
    data = load_dataset(dataset or "digits")
    protocols = protocols_of(data, protocol)
    if features is not None or neighbours:
        protocols = tuple(load_protocol(with_additions(one.name, features, neighbours)) for one in protocols)
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
        raise ConfigError(f"no samples given; give {KINDS}")
    reading = _reading(layout, key, values, data)
    if made is not None and (layout, key, values) != (None, None, None):
        raise ConfigError(f"{path} is a run's folder; leave --layout, --key and --range out")
    settings = Settings(
        samples=samples,
        metrics=tuple(name.strip() for name in metrics.split(",")) if metrics is not None else None,
        weights=weights,
        statistics=statistics,
        allow_deviation=allow_deviation,
        device=where,
        levels_given=values is not None and values.lower() == "levels",
        labels="seeded per image" if made else "unknown",
        seeds=config.sampling_seeds if made else (),
    )
    with data.computing(), precision("fp32", where):
        found = made or open_samples(paths or (), reading)
        if preview is not None:
            _write_preview(preview, found, data)
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


def _reading(layout: str | None, key: str | None, values: str | None, data: Dataset) -> Reading:
    """Return what the user says of files, and what the data set awaits."""
    from typing import get_args

    from tractbench.evaluation.sample_set import Layout, Range, Reading

    return Reading(
        layout=None if layout is None else cast("Layout", choose(layout, "layout", get_args(Layout))),
        key=key,
        values=None if values is None else cast("Range", choose(values, "range", get_args(Range))),
        points=None if data.distribution is None else len(data.distribution.mean),
    )


def _write_preview(path: Path, samples: SampleSet, data: Dataset) -> None:
    """Draw the first samples as they were read."""
    from tractbench.results.pictures import save_mosaic

    if data.distribution is not None:
        raise ConfigError(f"--preview {path}: {data.name} has points, not images; leave it out")
    if samples.shape[0] != data.shape[0]:
        return  # which the evaluation says
    images = next(samples.read())[:PREVIEW_IMAGES]
    save_mosaic(path, images.float() if samples.floats else data.decode(images), PREVIEW_COLUMNS)


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
    lines += [f"  read: {note}" for note in manifest.notes]
    lines += [f"  DEVIATION: {deviation}" for deviation in manifest.deviations]
    return lines + [f"  DOUBTFUL: {doubt}" for doubt in manifest.doubts]


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
