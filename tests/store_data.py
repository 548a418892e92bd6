"""Records, students and whole stores for the tests of the store."""

import hashlib
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tractbench.config.resolve import resolve
from tractbench.io.tensors import save_tensors
from tractbench.results.record import Metric, Record, RecordedConfig
from tractbench.results.store import CELLS, MARKER, STUDENT, Store

TABLE_1 = Path(__file__).parent / "fixtures" / "records-format1.jsonl"
"""What the first release wrote: two runs of one TRACT student, and one of DDIM."""


def digest(name):
    return hashlib.sha256(name.encode()).hexdigest()


def record(name="run", status="done", seed=0, scores=(1.0, 2.0, 4.0), **changes):
    """A run of a student of its training seed."""
    config = RecordedConfig.of(resolve({"method": "tract", "dataset": "digits", "seed": seed})[0])
    identity = digest(name)
    folder = Store(Path("unused"), create=True).cell_folder(config, identity)
    values = {
        "identity": identity,
        "student": digest(f"student {seed}"),
        "training_version": 2,
        "scoring_version": 2,
        "status": status,
        "reason": None if status == "done" else "loss is nan",
        "created": "2026-01-01T00:00:00+00:00",
        "config": config,
        "metrics": {"fd_pixel": Metric.of(scores)} if status == "done" else {},
        "folder": f"{CELLS}/{folder.name}",
    }
    return Record.model_validate(values | changes)


def add(store, one, weight=1.0):
    """Record a run and, if it is done, put its student beside it."""
    if one.status == "done":
        write_student(store.student_folder(one.student) / STUDENT, one.student, weight)
        (store.student_folder(one.student) / "loss.csv").write_text("step,phase,images,loss\n")
    store.log(store.root / one.folder, "started")
    store.write(one)


def write_student(path, student, weight=1.0):
    save_tensors(path, {"weight": torch.full((8,), weight)}, {"student": student})


@cache
def student_bytes(student):
    """One file for all cells of a student: two of the same weights need not have the same bytes."""
    with TemporaryDirectory() as folder:
        write_student(Path(folder) / STUDENT, student)
        return (Path(folder) / STUDENT).read_bytes()


def format1(root):
    """A store as the first release left it, with weights of our own."""
    root.mkdir(parents=True)
    (root / MARKER).write_text('{"format": 1}\n')
    (root / "records.jsonl").write_bytes(TABLE_1.read_bytes())
    for line in TABLE_1.read_text().splitlines():
        raw = json.loads(line)
        folder = root / raw["folder"]
        folder.mkdir()
        (folder / ".lock").touch()
        (folder / "record.json").write_text(json.dumps(raw, indent=2))
        (folder / "config.json").write_text(json.dumps(raw["config"]))
        (folder / "samples.png").write_bytes(b"picture of " + raw["identity"].encode())
        if raw["config"]["schedule"]:
            (folder / STUDENT).write_bytes(student_bytes(raw["student"]))
            (folder / "loss.csv").write_text("step,phase,images,loss\n")
    return root


def contents(root):
    """Every file's bytes, but for locks and the index."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name[0] != "." and path.name != "records.jsonl"
    }
