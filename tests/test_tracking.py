"""Curves, scores and pictures that go to trackers."""

import json
import sys
from pathlib import Path

import pytest

from tractbench.errors import ConfigError
from tractbench.pipeline import tracking
from tractbench.pipeline.tracking import MODULES, make_tracker
from tractbench.training.distillation import LOG_EVERY

RUN = ("run", "--method", "tract", "--dataset", "digits", "--schedule", "8,1", "--set", "grid_steps=8", "--budget", 800,
       "--batch", 16, "--samples", 16, "--sampling-seeds", "0", "--set", "chunk=16", "--quiet", "--json")  # fmt: skip
STEPS = 800 // 16

WANDB = """
import json, os

class Image:
    def __init__(self, picture):
        self.size = picture.size

class _Config:
    def update(self, values, allow_val_change=False):
        _write({"config": values})

class _Run:
    def log(self, values, step=None):
        shown = {k: v if isinstance(v, (int, float)) else [i.size for i in v] for k, v in values.items()}
        _write({"step": step} | shown)
    def finish(self):
        _write({"finished": True})

config = _Config()

def _write(line):
    with open(os.environ["FAKE_WANDB"], "a") as file:
        file.write(json.dumps(line) + "\\n")

def init(project, name, dir):
    _write({"project": project, "name": name})
    return _Run()
"""


def check(curves, score):
    """``curves`` holds, by name, the values by step."""
    logged = {*range(LOG_EVERY, STEPS + 1, LOG_EVERY), STEPS}
    for name in ("loss", "learning_rate", "images_per_s", "gradient_norm"):
        assert set(curves[f"train/{name}"]) == logged
        assert all(value > 0 for value in curves[f"train/{name}"].values())
    assert list(curves["train/learning_rate"].values()) == pytest.approx([2e-4] * len(logged))
    assert set(curves["distillation_error"]) == {STEPS}
    assert curves["score/fd_pixel"] == {STEPS: pytest.approx(score)}


def test_tensorboard_reads_what_a_run_did(tractbench):
    pytest.importorskip("tensorboardX", reason="installed with the test extra")
    from tensorboardX.proto.event_pb2 import Event

    done = tractbench(*RUN, "--track", "tensorboard")
    assert done.code == 0, done.err
    folder = f"{done.json['run_dir']}/tensorboard"
    curves, pictures = {}, []
    for record in records(next(path for path in walk(folder) if "tfevents" in path.name)):
        event = Event.FromString(record)
        for value in event.summary.value:
            if value.HasField("image"):
                pictures.append((value.tag, event.step, value.image.width > 0))
            elif value.HasField("simple_value"):
                curves.setdefault(value.tag, {})[event.step] = value.simple_value
    check(curves, done.json["metrics"]["fd_pixel"]["mean"])
    assert pictures == [("samples", STEPS, True)]


def records(path):
    """The records of a TFRecord file: length, its checksum, data, their checksum."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        yield data[at + 12 : at + 12 + length]
        at += 12 + length + 4


def walk(folder):
    return Path(folder).rglob("*")


def test_wandb_is_told_what_a_run_did(tractbench, monkeypatch, tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("FAKE_WANDB", str(tmp_path / "told"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    done = tractbench(*RUN, "--track", "wandb")
    sys.modules.pop("wandb", None)
    assert done.code == 0, done.err
    first, config, *told, last = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert first["project"] == "tractbench"
    assert done.json["run_dir"].endswith(first["name"])
    assert config["config"]["batch"] == 16
    assert last == {"finished": True}
    curves = {}
    for line in told:
        for name, value in line.items():
            curves.setdefault(name, {})[line["step"]] = value
    assert list(curves.pop("samples")) == [STEPS]
    check(curves, done.json["metrics"]["fd_pixel"]["mean"])
    again = tractbench(*RUN, "--track", "tensorboard") if "tensorboardX" in sys.modules else tractbench(*RUN)
    assert again.json["reused"]  # a run that is done tells nobody


@pytest.mark.filterwarnings("ignore")  # of its own old parts
def test_mlflow_has_what_a_run_did(tractbench, monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow or mlflow-skinny with sqlalchemy, neither of the test extra")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    done = tractbench(*RUN, "--track", "mlflow")
    assert done.code == 0, done.err
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'tractbench'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == (Path(done.json["run_dir"]).name, "FINISHED")
    assert run.data.params["batch"] == "16"
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    curves = {name: {one.step: one.value for one in history} for name, history in histories.items()}
    check(curves, done.json["metrics"]["fd_pixel"]["mean"])
    assert [one.path for one in client.list_artifacts(run.info.run_id, "samples")] == ["samples/samples.png"]


@pytest.mark.filterwarnings("ignore")
def test_trackio_has_what_a_run_did_and_says_nothing_where_json_is_printed(tractbench, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio", reason="not of the test extra")
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    done = tractbench(*RUN, "--track", "trackio")
    assert done.code == 0, done.err
    assert trackio.context_vars.current_run.get() is None, "else it is finished once more, with words, at the end"
    (run,) = trackio.Api().runs("tractbench")
    assert run.name == Path(done.json["run_dir"]).name
    assert run.config["batch"] == 16
    curves = {}
    for line in storage.get_logs("tractbench", run.name):
        for name, value in line.items():
            if name not in ("step", "timestamp"):
                curves.setdefault(name, {})[line["step"]] = value
    check(curves, done.json["metrics"]["fd_pixel"]["mean"])


def test_a_missing_package_is_one_line_with_the_command(tractbench, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    for name in MODULES:
        with pytest.raises(ConfigError, match=f"--track {name}: the package is not installed; pip install {name}"):
            make_tracker(name)
    done = tractbench(*RUN, "--track", "tensorbord")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "did you mean 'tensorboard'" in done.err
