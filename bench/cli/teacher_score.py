"""``tractbench teacher score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli.interrupts import interrupts
from tractbench.cli.options import Device, Json, Quiet, Runs, chosen_device, progress, with_plugins
from tractbench.cli.output import to_json

if TYPE_CHECKING:
    from tractbench.reports.verdicts.teachers import TeacherVerdict
    from tractbench.results.record import Record

CONTRADICTED = 1
"""Exit status where the teacher does not score what is reported of it, as of ``tractbench verify``."""


@with_plugins
def teacher_score(
    name: Annotated[str, typer.Argument(help="Teacher on this machine, see 'teacher list', or the path of a card.")],
    samples: Annotated[
        int | None, typer.Option(min=2, help="Images in a set instead of the protocol's number: a cheap first look.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Evaluation protocol instead of the one of the reported figure.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Variant of its data set, such as imagenet64:npz, instead of the figure's.")
    ] = None,
    runs: Runs = Path("runs"),
    weights: Annotated[
        Path | None, typer.Option(help="Inception weights instead of the published ones; no score is a FID then.")
    ] = None,
    sample_batch: Annotated[
        int | None, typer.Option(min=1, help="Images held together while sampling; never changes a result.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Sample a teacher as its authors do, score it their way and put the figure beside what they report.

    So a wrong import is seen before weeks are spent on students of it. The
    card says the figure, sampler, protocol and number of sets where they
    are known ('teacher info NAME'). It is a run of method ddim like any
    other: it lies in the results folder, and the same command finds it done.
    A score of fewer samples is no smaller copy of a FID: it is larger, and
    gets no verdict.

    Exit status: 0; 1 if the figure is contradicted; 2 if something that is
    needed is missing.

    Examples:
      tractbench teacher score digits-ve
      tractbench teacher score edm-cifar10-uncond-ve --samples 1000    # minutes: images, and a first number
      tractbench teacher score edm-cifar10-uncond-ve                   # 3 x 50,000 images, 35 evaluations each
    """
    from tractbench.config.resolve import resolve
    from tractbench.evaluation.protocols import load_protocol
    from tractbench.pipeline.run import run
    from tractbench.pipeline.runtime import Runtime
    from tractbench.pipeline.teacher_score import scoring_settings
    from tractbench.reports.verdicts.teachers import judge_teacher
    from tractbench.results.store import Store
    from tractbench.teachers.card import TeacherCard, read_card
    from tractbench.teachers.published import reported_figures
    from tractbench.training.parallel import ALONE

    card, _ = read_card(name, TeacherCard)
    figures = reported_figures(card)
    reported = next((figure for figure in figures if not figure.cannot), figures[0] if figures else None)
    settings = scoring_settings(name, card, reported, protocol=protocol, samples=samples, dataset=dataset)
    config, method, data = resolve(settings)
    where, bar, store = chosen_device(device), progress(quiet), Store(runs, create=True)
    bar.message(
        f"{card.name} on {config.dataset}: {config.nfe} network evaluations an image, "
        f"{len(config.sampling_seeds)} x {config.samples:,} samples, protocol {config.protocol}"
    )
    with interrupts(ALONE) as stop:
        runtime = Runtime(where, sample_batch, weights, stop=stop)
        outcome = run(config, method, data, store, bar, runtime)
    verdict = judge_teacher(card.name, outcome.record, load_protocol(config.protocol).metrics[0], reported)
    folder = store.root / outcome.record.folder
    if as_json:
        print(to_json(verdict.model_dump(mode="json") | {"run_dir": str(folder), "reused": outcome.reused}))
    else:
        _print(verdict, outcome.record, folder)
    return CONTRADICTED if verdict.verdict == "contradicted" else 0


def _print(verdict: TeacherVerdict, record: Record, folder: Path) -> None:
    from tractbench.cli.console import print_table
    from tractbench.reports.sheet import METRIC_TITLES, decimals

    reported = verdict.reported
    title = METRIC_TITLES.get(verdict.metric, verdict.metric)
    least = reported is not None and reported.aggregation == "minimum" and verdict.sets > 1
    kind = "the least" if least else "mean"
    low, high = verdict.interval or (verdict.estimate, verdict.estimate)
    places = max(3, decimals((high - low) / 4))
    interval = f"{low:.{places}f} to {high:.{places}f}" if verdict.interval else "-"
    of = f"{kind} of {verdict.sets} x {verdict.samples:,} samples, protocol {record.config.protocol}"
    rows = [["ours", f"{verdict.estimate:.{places}f}", interval, of]]
    if reported is not None:
        aggregation = {
            "minimum": f"the least of {reported.runs or '?'}",
            "mean": "mean of sets",
            "unknown": "one figure",
        }
        what = (
            f"{aggregation[reported.aggregation]} x {reported.samples:,} samples, protocol {reported.protocol or '?'}"
        )
        error = f" ± {reported.error:g}" if reported.error is not None else ""
        rows.append(["reported", f"{reported.value:g}{error}", "-", f"{what}; {reported.sampler}"])
    print_table({verdict.teacher: "", title: "right", "95% interval": "right", "what": ""}, rows)
    print(f"{verdict.verdict}{': ' * bool(verdict.notes)}{'; '.join(verdict.notes)}")
    if verdict.difference is not None and verdict.margin is not None:
        ends = "" if verdict.difference_95 is None else " [{:+.3f}, {:+.3f}]".format(*verdict.difference_95)
        margin = f"margin {verdict.margin:.3g} ({verdict.margin_reason})"
        print(f"ours minus reported: {verdict.difference:+.3f}{ends}, {margin}")
    if reported is not None:
        print(f"source: {reported.source}{'; ' * bool(reported.note)}{reported.note}")
    print(f"files: {folder}")
