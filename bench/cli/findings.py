"""What this machine has: versions, devices, caches, tools; one line each."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from tractbench.cli.components import offers
from tractbench.datasets.formats.files import FileDataset
from tractbench.errors import TractbenchError
from tractbench.evaluation.extractors.inception import choose_weights
from tractbench.evaluation.extractors.vision_transformer import published
from tractbench.io.cache import cache_dir
from tractbench.io.files import file_sha256
from tractbench.plugins import WORDS, Kind, complaints
from tractbench.registry import load_dataset
from tractbench.results.store import Store
from tractbench.teachers.card import imported_folder
from tractbench.teachers.published import local_cards

PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "scipy", "pandas", "safetensors")


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: ``good`` False is something that a run of the paper's tier would lack."""

    name: str
    good: bool
    detail: str


def examine(runs: Path) -> Iterator[Finding]:
    """Yield what is found, cheapest first; ``runs`` is the folder of results."""
    yield Finding("tractbench", True, f"{version('tractbench')}, Python {platform.python_version()}")
    yield Finding("packages", True, ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    yield Finding("processor", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads{_memory()}")
    yield _devices()
    cache = cache_dir()
    there = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    yield Finding("cache", True, f"{cache}, {shutil.disk_usage(there).free / 1e9:.0f} GB free")
    for kind in WORDS:
        yield _components(kind)
    for complaint in complaints():
        yield Finding("plugins", False, complaint)
    for offer in offers("datasets"):
        if not offer.error and (files := load_dataset(offer.name).files):
            yield _data(files)
    yield _teachers()
    yield _weights()
    yield _spaces()
    yield _results(runs)
    for tool, purpose in (("chromium", "looking at reports"), ("pdflatex", "compiling tables")):
        where = shutil.which(tool)
        yield Finding(tool, True, where or f"not found; only needed for {purpose}")


def _memory() -> str:
    path = Path("/proc/meminfo")
    if not path.exists():
        return ""
    found = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
    return (
        f", {int(found['MemAvailable'].split()[0]) / 1e6:.0f} of {int(found['MemTotal'].split()[0]) / 1e6:.0f} GB free"
    )


def _devices() -> Finding:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding("GPUs", bool(names), ", ".join(names) or "none that torch can use")


def _components(kind: Kind) -> Finding:
    found = list(offers(kind))
    broken = [offer.error for offer in found if offer.error]
    return Finding(kind, not broken, "; ".join(broken) or ", ".join(offer.name for offer in found) or "none added")


def _data(dataset: FileDataset) -> Finding:
    try:
        manifests = dataset.manifests()
    except TractbenchError as error:
        return Finding(f"data {dataset.name}", False, str(error))
    if not manifests:
        files = "--download" if dataset.download_url else "PATH"
        return Finding(f"data {dataset.name}", False, f"not prepared: tractbench data prepare {dataset.name} {files}")
    text = ", ".join(f"{m.split} {m.count:,}" + f" ({m.deviation})" * bool(m.deviation) for m in manifests)
    return Finding(f"data {dataset.name}", not any(m.deviation for m in manifests), text)


def _teachers() -> Finding:
    try:
        names = list(local_cards())
    except TractbenchError as error:
        return Finding("teachers", False, str(error))
    return Finding("teachers", True, f"{', '.join(names)}; imported ones in {imported_folder()}")


def _weights() -> Finding:
    weights = choose_weights(None)
    if not weights.path.exists():
        return Finding("Inception weights", False, f"not here; fetched at the first FID, or put them at {weights.path}")
    good = file_sha256(weights.path) == weights.sha256
    return Finding("Inception weights", good, str(weights.path) if good else f"{weights.path} is damaged; delete it")


def _spaces() -> Finding:
    found = published()
    here = [name for name, one in found.items() if one.weights.path.is_file()]
    rest = [name for name in found if name not in here]
    text = f"{', '.join(here) or 'none'} here" + f"; tractbench features fetch {' '.join(rest)}" * bool(rest)
    return Finding("feature networks", True, text)


def _results(runs: Path) -> Finding:
    try:
        store = Store(runs)
        records = store.records()
    except TractbenchError as error:
        return Finding("results", True, str(error))
    done = sum(record.status == "done" for record in records)
    text = f"{runs}: {done} done, {len(records) - done} failed or interrupted"
    damaged = f"; {len(store.damaged)} damaged, see 'tractbench store check'" if store.damaged else ""
    return Finding("results", not store.damaged, text + damaged)
