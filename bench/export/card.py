"""The model card of an exported run, as the Hugging Face Hub reads it: what the student is, and what it scored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from tractbench.config.numbers import format_budget
from tractbench.export.exported import Exported
from tractbench.export.usage import usage
from tractbench.reports.safe_text import markdown_paragraph, markdown_text
from tractbench.reports.sheet import METRIC_TITLES
from tractbench.results.record import Metric
from tractbench.results.statistics import difference
from tractbench.results.store import PICTURE

LICENCES = {"apache-2.0": "Apache-2.0", "mit": "MIT", "cc-by-nc-sa-4.0": "CC BY-NC-SA 4.0", "cc-by-4.0": "CC BY 4.0"}
"""The Hub's identifiers of licences, and how cards of teachers begin that have them."""


def model_card(found: Exported, form: str) -> str:
    """Return a README.md: YAML front matter for the Hub, then words, figures and code for people.

    Args:
        found: the run.
        form: how it was exported: ``diffusers``, ``safetensors`` or ``onnx``.
    """
    front = "".join(f"{key}: {json.dumps(value)}\n" for key, value in _front(found, form).items())
    return f"---\n{front}---\n\n" + "\n\n".join(_sections(found, form)) + "\n"


def _front(found: Exported, form: str) -> dict[str, object]:
    """Return what the Hub reads; JSON values are YAML ones too."""
    config, record = found.record.config, found.record
    front: dict[str, object] = dict(_licence(found))
    if form == "diffusers":
        front["library_name"] = "diffusers"
    task = {"type": "unconditional-image-generation"}
    scores = [
        {"type": name, "name": title(name), "value": metric.mean}
        for name, metric in record.metrics.items()
        if metric.mean - metric.mean == 0  # JSON has no infinities
    ]
    front |= {
        "pipeline_tag": task["type"],
        "tags": [
            "tractbench",
            "diffusion-distillation",
            "few-step",
            config.method,
            *(["onnx"] if form == "onnx" else []),
        ],
    }
    dataset = {"type": config.dataset, "name": config.dataset}
    results = [{"task": task, "dataset": dataset, "metrics": scores}] if scores else []
    return front | {"model-index": [{"name": found.name, "results": results}]}


def _licence(found: Exported) -> Mapping[str, str]:
    if found.teacher is None:
        return {}
    for identifier, words in LICENCES.items():
        if re.match(rf"{re.escape(words)}(?![\w.])", found.teacher.licence):
            return {"license": identifier}
    return {"license": "other", "license_name": found.teacher.licence}


def title(metric: str) -> str:
    """Return how a metric is called in tables."""
    return METRIC_TITLES.get(metric, metric)


def _sections(found: Exported, form: str) -> Iterator[str]:
    record, config, cell = found.record, found.record.config, found.cell
    steps = f"{record.nfe_spent} network evaluation{'s' * (record.nfe_spent != 1)} an image"
    yield f"# {markdown_text(found.name)}"
    if cell.method.trains:
        made = f"A student that {markdown_text(config.method)} distilled on {markdown_text(config.dataset)}"
    else:
        made = f"The teacher {markdown_text(config.teacher)} on {markdown_text(config.dataset)}, without distillation"
    yield (
        f"{made}: {steps}, {found.recipe.shape[0]} x {found.recipe.shape[1]} x {found.recipe.shape[2]} values. "
        "Trained, sampled and scored by tractbench; what follows is from the run's record (`run.json`)."
    )
    if (found.folder / PICTURE).is_file():
        yield f"![Samples from the same noise: the teacher in all its steps, in the run's, and the student.]({PICTURE})"
    yield f"## How to sample\n\n{usage(found, form)}"
    yield f"## Scores\n\n{_scores(found)}"
    if record.deviations:
        listed = "\n".join(f"- {markdown_text(one)}" for one in record.deviations)
        yield f"In these points the run differs from its protocol, so that no published figure compares:\n\n{listed}"
    yield "## How it was made\n\n" + "\n".join(f"- {key}: {value}" for key, value in _facts(found))
    yield f"The command that repeats it:\n\n```sh\n{record.command}\n```"
    yield f"## Licence\n\n{_licence_words(found)}"


def _scores(found: Exported) -> str:
    record, config = found.record, found.record.config
    rows = ["| metric | mean | 95% interval | real data |", "| --- | ---: | ---: | ---: |"]
    for name, metric in record.metrics.items():
        floor = f"{record.floors[name]:.4g}" if name in record.floors else "-"
        rows.append(f"| {markdown_text(title(name))} | {metric.mean:.5g} | {_interval(metric)} | {floor} |")
    return "\n".join(rows) + (
        f"\n\nOver {len(config.sampling_seeds)} sampling seeds of {config.samples:,} images, protocol "
        f"`{config.protocol}`, evidence tier `{config.tier}`. The interval is that of this one student's "
        "score over sampling seeds; how the method's students differ from one training seed to another it does not say."
    )


def _interval(metric: Metric) -> str:
    seen = difference(metric.per_seed)
    if seen is None:
        return "-"
    low, high = seen.interval()
    return f"{low:.5g} to {high:.5g}"


def _facts(found: Exported) -> Iterator[tuple[str, str]]:
    """Yield what a reader needs to know of the run, by name."""
    record, config, cell = found.record, found.record.config, found.cell
    yield "data", f"{markdown_text(config.dataset)} ({markdown_text(cell.dataset.summary)})"
    yield "method", f"{markdown_text(config.method)} ({markdown_text(cell.method.summary)})"
    yield "teacher", f"{markdown_text(config.teacher)}, process {markdown_text(config.process)}"
    if cell.method.trains:
        phases = " -> ".join(map(str, config.schedule))
        yield "schedule", f"{phases} steps; the last one's student is this"
        yield (
            "training budget",
            f"{format_budget(config.budget)} images ({record.training.images:,} were seen), batch {config.batch}",
        )
        yield (
            "optimiser",
            f"{markdown_text(config.optimiser)}, learning rate {config.lr:g}, precision {config.precision}",
        )
        yield "training seed", str(config.seed)
    if config.options:
        yield (
            "options",
            ", ".join(f"{markdown_text(k)} {markdown_text(json.dumps(v))}" for k, v in config.options.items()),
        )
    yield "network", f"{markdown_text(found.network_name)}, {record.parameters or 0:,} parameters"
    if config.precision != "fp32":
        yield (
            "precision",
            f"scores are of passes in {config.precision}; this folder computes in float32 unless told otherwise",
        )
    yield (
        "checked",
        f"the exported sampler's images are within {found.difference:.1g} of the run's own, pixels in -1 to 1",
    )
    yield "run", f"`{record.identity}`, student `{record.student}`"
    yield "versions", f"training {record.training_version}, scoring {record.scoring_version}"


def _licence_words(found: Exported) -> str:
    if found.teacher is None:
        return "The teacher is a closed form, without weights or a licence."
    words = f"The weights were made from those of the teacher {found.teacher.name}, whose licence is "
    return markdown_paragraph(f"{words}{found.teacher.licence}.") + " Code in this folder is tractbench's, Apache-2.0."
