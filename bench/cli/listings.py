"""What ``tractbench list`` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tractbench.cli.components import Offer, offers
from tractbench.cli.console import format_metric
from tractbench.config.fields import UNTRAINED_FIELDS, RunConfig
from tractbench.config.numbers import format_budget
from tractbench.diffusion.processes import process_class
from tractbench.method import Method
from tractbench.plugins import WORDS, Kind
from tractbench.registry import load_dataset, load_method
from tractbench.results.store import Store


@dataclass(frozen=True)
class ListingTable:
    """Rows for a terminal and objects for JSON; a header's value is its justification."""

    headers: Mapping[str, str]
    rows: list[list[str]]
    objects: list[dict[str, object]]


def list_methods(verbose: bool) -> ListingTable:
    """List the installed methods; verbose lists every option and every run setting with its default and meaning."""
    found = list(offers("methods"))
    methods = [load_method(offer.name) for offer in found if not offer.error]
    if not verbose:
        short: list[dict[str, object]] = [
            {"name": m.name, "processes": list(m.processes), "summary": m.summary} for m in methods
        ]
        return ListingTable(
            {"method": "left", "processes": "left", "what it is": "left"},
            [[m.name, ", ".join(m.processes), m.summary] for m in methods] + _broken(found, 3),
            short + _errors(found),
        )
    rows: list[list[str]] = []
    for method in methods:
        for name, field in method.model_fields.items():
            rows.append([method.name, name, str(method.defaults.get(name, field.default)), field.description or ""])
        for name, field in RunConfig.model_fields.items():
            shown = name in UNTRAINED_FIELDS or (method.trains and (method.self_teacher or name != "mu_s"))
            if shown and name not in ("method", "dataset", "tier", "teacher", "options"):
                rows.append([method.name, name, _default(method, name), field.description or ""])
    rows += _broken(found, 4)
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
    own = {"process": process, "grid_steps": process_class(process).default_steps, **method.defaults}
    return str(own.get(name, RunConfig.model_fields[name].get_default(call_default_factory=True)))


def list_datasets() -> ListingTable:
    """List the installed data sets with their tiers, the default tier first."""
    found = list(offers("datasets"))
    sets = [load_dataset(offer.name) for offer in found if not offer.error]
    rows = [[d.name, "x".join(map(str, d.shape)), ", ".join(d.workload.tiers), d.summary] for d in sets]
    objects: list[dict[str, object]] = [
        {"name": d.name, "shape": list(d.shape), "tiers": list(d.workload.tiers), "summary": d.summary} for d in sets
    ]
    headers = {"data set": "left", "shape": "left", "tiers": "left", "what it is": "left"}
    return ListingTable(headers, rows + _broken(found, 4), objects + _errors(found))


def list_components(kind: Kind) -> ListingTable:
    """List what there is of another kind, and who offers it."""
    found = list(offers(kind))
    objects: list[dict[str, object]] = [{"name": o.name, "from": o.origin} for o in found if not o.error]
    return ListingTable(
        {WORDS[kind]: "left", "from": "left", "": "left"},
        [[offer.name, offer.origin, f"broken: {offer.error}" * bool(offer.error)] for offer in found],
        objects + _errors(found),
    )


def _broken(found: list[Offer], columns: int) -> list[list[str]]:
    """Return a row for each component that cannot be used, its error in the last column."""
    return [[o.name, *["-"] * (columns - 2), f"broken: {o.error}"] for o in found if o.error]


def _errors(found: list[Offer]) -> list[dict[str, object]]:
    return [{"name": o.name, "error": o.error} for o in found if o.error]


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
