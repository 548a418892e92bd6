"""Students to and from the Hub, against a server of its API on loopback."""

import json
import shutil
from pathlib import Path

import pytest
from fake_hub import TOKEN
from hub_data import files, one_line
from store_data import contents, digest, write_student

from tractbench.results.migrate import parse_record
from tractbench.results.ship import stripped


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "exported"
    write_student(folder / "unet" / "model.safetensors", digest("student"))
    (folder / "model_index.json").write_text('{"_class_name": "Pipeline"}')
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n# A student\n")
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


def test_a_student_is_pulled_as_it_was_pushed(tractbench, hub, exported, tmp_path):
    send = ("push", "student", exported, "someone/student", "--yes")
    assert tractbench(*send, "-q").code == 0
    assert set(files(hub, "model", "someone/student")) == {
        ".gitattributes", "README.md", "model_index.json", "unet/model.safetensors"
    }  # fmt: skip
    assert tractbench("pull", "student", "someone/student", "--json").json["was_there"] is False
    (exported / ".DS_Store").unlink()
    assert contents(tmp_path / "student") == contents(exported)
    assert tractbench("pull", "student", "someone/student", "--json").json["was_there"] is True
    hub.asked.clear()
    assert len(tractbench(*send, "--json").json["there"]) == 3
    assert hub.writes() == []


def test_another_student_is_not_put_over_one_that_is_there(tractbench, hub, exported, tmp_path):
    send = ("push", "student", exported, "someone/student", "--yes", "-q")
    tractbench(*send)
    (exported / "README.md").write_text("edited")
    hub.asked.clear()
    assert tractbench(*send).code == 0
    write_student(exported / "unet" / "model.safetensors", digest("student"), 2.0)
    found = tractbench(*send)
    assert found.code == 1
    assert "refused unet/model.safetensors" in found.err
    assert hub.writes() == []
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "mine.txt").write_text("mine")
    assert "is there with other files" in one_line(tractbench("pull", "student", "someone/student", "-q"))
    assert contents(tmp_path / "student") == {"mine.txt": b"mine"}


def test_a_student_with_other_contents_than_its_hash_is_refused(tractbench, hub, exported, tmp_path):
    tractbench("push", "student", exported, "someone/student", "--yes", "-q")
    content = (exported / "unet" / "model.safetensors").read_bytes()
    hub.tampered["unet/model.safetensors"] = content[:-1] + b"\x01"
    found = tractbench("pull", "student", "someone/student", "-q")
    assert found.code == 2
    assert "other contents than its hash says" in one_line(found)
    assert not (tmp_path / "student").exists()
    hub.tampered.clear()
    assert tractbench("pull", "student", "someone/student", "-q").code == 0
    assert not (tmp_path / ".student.part").exists()


def test_a_student_that_names_this_machine_is_not_sent(tractbench, hub, exported, tmp_path):
    (exported / "model_index.json").write_text(json.dumps({"from": str(tmp_path / "runs")}))
    assert "of this machine" in one_line(tractbench("push", "student", exported, "someone/student", "--yes"))
    (exported / "model_index.json").write_text(json.dumps({"token": TOKEN}))
    assert "access token" in one_line(tractbench("push", "student", exported, "someone/student", "--yes"))
    assert hub.writes() == []
    shutil.rmtree(exported)
    assert "no results" in one_line(tractbench("push", "student", exported, "someone/student", "--yes"))


def test_a_student_goes_from_a_run_to_the_hub_and_back_without_what_is_its_machines_own(tractbench, hub, smoke):
    """The record says where the run was made; what is exported, and so what is sent, does not."""
    run = Path(smoke["run_dir"])
    done = tractbench("export", run, "--format", "safetensors", "--out", "out", "-q")
    assert done.code == 0, done.err
    assert tractbench("push", "student", "out", "someone/student", "--yes", "-q").code == 0
    sent = parse_record(files(hub, "model", "someone/student")["run.json"], "there")
    own = parse_record((run / "record.json").read_bytes(), "here")
    assert sent == stripped(own)
    assert sent != own
    assert tractbench("pull", "student", "someone/student", "-q").code == 0
    for path in Path("out").iterdir():
        assert (Path("student") / path.name).read_bytes() == path.read_bytes()
    (Path("out") / "log.txt").write_text("started")
    assert "name a run" in one_line(tractbench("push", "student", "out", "someone/student", "--yes"))


def test_a_run_is_sent_as_it_is_exported_and_nothing_is_left_of_that(tractbench, hub, smoke, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    run, form = Path(smoke["run_dir"]), ("--format", "safetensors")
    send = ("push", "student", run.name.rpartition("-")[2][:8], "someone/student", *form)
    planned = tractbench(*send, "--dry-run", "--json")
    assert (planned.code, hub.writes()) == (0, [])
    done = tractbench(*send, "--yes")
    assert (done.code, f"the student of {run} as safetensors" in done.err) == (0, True)
    tractbench("export", run, *form, "--out", "out", "-q")
    assert {p: c for p, c in files(hub, "model", "someone/student").items() if p[0] != "."} == contents(Path("out"))
    assert planned.json["files"] == {path: len(content) for path, content in contents(Path("out")).items()}
    again = tractbench("push", "student", run, "someone/student", *form, "--yes", "--json")
    assert (again.json["files"], len(again.json["there"])) == ({}, len(planned.json["files"]))
    assert list(scratch.iterdir()) == []


def test_which_student_is_meant_is_said_in_a_line(tractbench, hub, exported, smoke):
    def said(name, *more):
        return one_line(tractbench("push", "student", name, "someone/student", "--yes", *more))

    assert "nothing is called 'nothing'" in said("nothing")
    assert "exported; --format is for a run" in said(exported, "--format", "onnx")
    assert "did you mean 'onnx'?" in said(smoke["run_dir"], "--format", "onx")
    assert "a results store's own" in said(next(Path("runs/students").iterdir()))
    assert "OWNER/NAME" in one_line(tractbench("push", "student", smoke["run_dir"], "student", "--yes"))
    assert hub.writes() == []
