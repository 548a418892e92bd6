"""What ``tractbench list`` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tractbench.cli.console import format_metric
from tractbench.config.fields import UNTRAINED_FIELDS, RunConfig
from tractbench.config.numbers import format_budget
from tractbench.diffusion.processes import PROCESSES
from tractbench.method import Method
from tractbench.registry import dataset_names, load_dataset, load_method, method_names
from tractbench.results.store import Store


@dataclass(frozen=True)
class ListingTable:
    """Rows for a terminal and objects for JSON; a header's value is its justification."""

    headers: Mapping[str, str]
    rows: list[list[str]]
    objects: list[dict[str, object]]


def list_methods(verbose: bool) -> ListingTable:
    """List the installed methods; verbose lists every option and every run setting with its default and meaning."""
    methods = [load_method(name) for name in method_names()]
    if not verbose:
        return ListingTable(
            {"method": "left", "processes": "left", "what it is": "left"},
            [[m.name, ", ".join(m.processes), m.summary] for m in methods],
            [{"name": m.name, "processes": list(m.processes), "summary": m.summary} for m in methods],
        )
    rows: list[list[str]] = []
    for method in methods:
        for name, field in method.model_fields.items():
            rows.append([method.name, name, str(method.defaults.get(name, field.default)), field.description or ""])
        for name, field in RunConfig.model_fields.items():
            shown = name in UNTRAINED_FIELDS or (method.trains and (method.self_teacher or name != "mu_s"))
            if shown and name not in ("method", "dataset", "tier", "teacher", "options"):
                rows.append([method.name, name, _default(method, name), field.description or ""])
    objects: list[dict[str, object]] = [
        dict(zip(("method", "setting", "default", "description"), row, strict=True)) for row in rows
    ]
    return ListingTable({"method": "left", "setting": "left", "default": "left", "what it is": "left"}, rows, objects)


def _default(method: type[Method], name: str) -> str:
    """Return what a run setting is when nobody gives it, or who decides."""
    process = method.processes[0]
    if name in ("budget", "batch", "samples", "chunk", "protocol"):
        return "the tier's"
    if name == "schedule":
        return ",".join(map(str, method().default_schedule(1)))
    own = {"process": process, "grid_steps": PROCESSES[process].default_steps, **method.defaults}
    return str(own.get(name, RunConfig.model_fields[name].get_default(call_default_factory=True)))


def list_datasets() -> ListingTable:
    """List the installed data sets with their tiers, the default tier first."""
    sets = [load_dataset(name) for name in dataset_names()]
    return ListingTable(
        {"data set": "left", "shape": "left", "tiers": "left", "what it is": "left"},
        [[d.name, "x".join(map(str, d.shape)), ", ".join(d.workload.tiers), d.summary] for d in sets],
        [{"name": d.name, "shape": list(d.shape), "tiers": list(d.workload.tiers), "summary": d.summary} for d in sets],
    )


def list_runs(store: Store) -> ListingTable:
    """List the runs of a store, oldest first."""
    rows, objects = [], []
    for record in store.records():
        config = record.config
        metric = next(iter(record.metrics.items()), None)
        score = f"{metric[0]} {format_metric(metric[1])}" if metric else f"{record.status}: {record.reason}"
        budget = format_budget(config.budget) if config.schedule else "-"
        rows.append([config.method, config.dataset, config.tier, str(config.nfe), budget, str(config.seed), score,
                     record.identity[:8]])  # fmt: skip
        objects.append(record.model_dump(mode="json"))
    headers = {
        "method": "left", "data set": "left", "tier": "left", "NFE": "right", "budget": "right", "seed": "right",
        "score": "left", "run": "left",
    }  # fmt: skip
    return ListingTable(headers, rows, objects)
