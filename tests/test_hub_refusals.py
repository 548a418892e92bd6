"""What is not sent to the Hub, what is not taken from there, and what the Hub refuses."""

import io
import sys

import pytest
from fake_hub import TOKEN
from hub_data import REPO, files, one_line, push, three_runs, weights
from huggingface_hub import constants, utils
from store_data import add, contents, digest, record

from tractbench.results.store import record_text


@pytest.fixture
def store(tmp_path):
    return three_runs(tmp_path)


@pytest.mark.parametrize(("token", "more", "says"), [("", (), "hf auth login"), (TOKEN, (), "--yes")])
def test_nothing_is_sent_without_a_token_or_somebody_to_ask(tractbench, hub, store, monkeypatch, token, more, says):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    found = tractbench("push", "store", REPO, *more)
    assert found.code == 2
    assert says in found.err.splitlines()[-1]
    assert hub.writes() == []


def test_a_token_that_cannot_be_read_is_one_line(tractbench, hub, store, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path))  # a folder cannot be read, not even by root
    done = tractbench("push", "store", REPO, "--yes")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"cannot read the Hub's token, {tmp_path}" in done.err


@pytest.mark.parametrize("path", ["weights", "record", "picture"])
def test_a_file_with_other_contents_than_its_hash_is_refused(tractbench, hub, store, tmp_path, path):
    folder = record("a").folder
    path = {"weights": weights(0), "record": f"{folder}/record.json", "picture": f"{folder}/samples.png"}[path]
    push(tractbench, "--students")
    content = files(hub)[path]
    hub.tampered[path] = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]
    found = tractbench("pull", "store", REPO, "--students", "-q")
    assert found.code == 2
    assert f"{path} came with other contents than its hash says" in one_line(found)
    assert not (tmp_path / "digits").exists()
    assert not list((tmp_path / "cache").rglob(f"datasets--someone--digits/{path}")), "it was not kept"
    hub.tampered.clear()
    assert tractbench("pull", "store", REPO, "--students", "-q").code == 0


def test_a_record_that_was_changed_before_it_was_pushed_is_refused(tractbench, hub, store, tmp_path):
    push(tractbench)
    path = f"{record('a').folder}/record.json"
    repo = hub.repos["dataset", REPO]
    repo.commit({**repo.files, path: repo.files[path].replace(b'"mean": 2.0', b'"mean": 1.9')})
    assert repo.files[path] != repo.commits[-2][1][path]
    found = tractbench("pull", "store", REPO, "-q")
    assert found.code == 2
    assert "is damaged (it is not as it was written)" in one_line(found)
    assert not (tmp_path / "digits").exists()


@pytest.mark.parametrize("identity", ["../../../../../escape", digest("b")])
def test_a_record_that_would_be_written_elsewhere_is_refused(tractbench, hub, store, tmp_path, identity):
    push(tractbench)
    other = record("a", identity=identity)
    repo = hub.repos["dataset", REPO]
    repo.commit({**repo.files, f"{record('a').folder}/record.json": record_text(other).encode()})
    found = tractbench("pull", "store", REPO, "-q")
    assert found.code == 2
    assert "is the record of another run" in one_line(found)
    assert not (tmp_path / "digits").exists()


def test_files_that_are_no_stores_are_not_taken(tractbench, hub, store, tmp_path):
    push(tractbench)
    repo = hub.repos["dataset", REPO]
    strange = [f"{record('a').folder}/run.py", "cells/.hidden/record.json", "plans/x.json", "students/../../x"]
    repo.commit({**repo.files, **dict.fromkeys(strange, b"{}")})
    assert tractbench("pull", "store", REPO, "-q").code == 0
    assert not [path for path in contents(tmp_path / "digits") if path.endswith((".py", "x", "x.json"))]


def test_a_run_that_names_a_place_or_a_token_is_left_out_and_named(tractbench, hub, store):
    secret = "hf_" + "Z" * 34
    add(store, record("place", seed=5, basis={"weights": "/data/me/inception.pt"}))
    add(store, record("token", seed=6, command=f"tractbench run --set key={secret}"))
    found = push(tractbench, "--json")
    assert found.code == 1
    assert "it names /data/me/inception.pt" in found.err
    assert "an access token (hf_ZZZ...)" in found.err
    assert secret not in found.err + found.out + str(files(hub))
    assert len(found.json["left_out"]) == 2
    assert len([path for path in files(hub) if path.endswith("record.json")]) == 4


@pytest.mark.parametrize(
    ("refuse", "says"),
    [
        (("preupload", 403, {}), "this token may not do that"),
        (("preupload", 404, {}), "it is not there, or is private"),
        (("commit", 409, {}), "changed by somebody else"),
        (("commit", 412, {}), "changed by somebody else"),
        (("preupload", 429, {"Retry-After": "7"}), "too many requests; try again in 7 s"),
        (("preupload", 503, {}), "the Hub has trouble (HTTP 503)"),
        (("preupload", 418, {}), "refused (HTTP 418"),
        (("api/datasets", 401, {}), "hf auth login"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(tractbench, hub, store, refuse, says):
    hub.make("dataset", REPO)
    hub.refuse = refuse
    found = push(tractbench)
    assert found.code == 2
    line = one_line(found)
    assert says in line
    assert REPO in line
    assert TOKEN not in line


def test_a_token_that_is_not_accepted_and_a_repository_that_is_not_there(tractbench, hub, monkeypatch):
    assert "no dataset of that name" in one_line(tractbench("pull", "store", REPO))
    hub.make("dataset", REPO, {"x.csv": b"1"})
    assert "no revision v9" in one_line(tractbench("pull", "store", REPO, "--revision", "v9"))
    assert "holds no results store" in one_line(tractbench("pull", "store", REPO))
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "hf auth login" in one_line(tractbench("pull", "store", REPO))
    monkeypatch.setenv("HF_ENDPOINT", "hub.example")
    assert "HF_ENDPOINT" in one_line(tractbench("pull", "store", REPO))


def test_offline(tractbench, hub, store, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = push(tractbench)
    assert found.code == 2
    assert "cannot reach http://127.0.0.1:9" in one_line(found)
    hub.make("dataset", REPO)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session = getattr(utils, "close_session", None) or utils.reset_sessions  # before 1.0
    close_session()
    assert "HF_HUB_OFFLINE is set" in one_line(push(tractbench))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()


def test_a_repository_that_is_something_else_or_public_is_not_touched(tractbench, hub, store):
    hub.make("dataset", REPO, {"train.csv": b"1,2"})
    assert "holds other files and no results store" in one_line(push(tractbench))
    hub.make("dataset", REPO)
    assert "--private makes new ones only" in one_line(push(tractbench, "--private"))
    assert hub.writes() == []


@pytest.mark.parametrize("name", ["digits", "a/b/c", "a/../b", "a/b--c", "-a/b", "https://hub/a/b", "a/b.git"])
def test_names_of_repositories(tractbench, hub, store, name):
    assert "OWNER/NAME" in one_line(tractbench("push", "store", "--yes", "--", name))
    assert hub.asked == []


def test_without_huggingface_hub(tractbench, hub, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for verb in ("push", "pull"):
        assert "pip install 'tractbench[hub]'" in one_line(tractbench(verb, "store", REPO))
