"""Results stores and students to and from the Hub, against a server of its API on loopback."""

import io
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub
from huggingface_hub import constants, file_download, utils
from scipy import stats
from store_data import add, contents, digest, record, write_student

from tractbench.hub import client
from tractbench.hub.card import BEGIN, END
from tractbench.hub.outgoing import public
from tractbench.progress import Progress
from tractbench.results.check import check
from tractbench.results.merge import merge
from tractbench.results.migrate import parse_record
from tractbench.results.provenance import environment
from tractbench.results.record import Metric
from tractbench.results.ship import stripped
from tractbench.results.store import STUDENT, Store, record_text

REPO = "someone/digits"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # HF_ENDPOINT as it was when huggingface_hub was imported
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # before 1.0
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # what waits before it asks again
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    yield hub
    hub.close()


@pytest.fixture
def store(tmp_path):
    """Three runs with students and pictures, one that failed, and what must not be sent."""
    store = Store(tmp_path / "runs", create=True)
    for seed, name in enumerate("abc"):
        one = record(name, seed=seed, scores=(1.0 + seed, 2.0, 3.0), environment=environment("cpu"))
        add(store, one)
        (store.root / one.folder / "samples.png").write_bytes(b"picture of " + name.encode())
    store.write(record("d", "failed", seed=3, reason=f"cannot read {tmp_path}/x.npz: no such file"))
    (store.root / "cache").mkdir()
    (store.root / "cache" / "big.npy").write_bytes(b"0")
    return store


def files(hub, kind="dataset", name=REPO):
    return hub.repos[kind, name].files


def weights(seed):
    return f"students/{digest(f'student {seed}')}/{STUDENT}"


def push(tractbench, *more):
    return tractbench("push", "store", REPO, "--yes", "-q", *more)


def one_line(done):
    """The only line that a command printed on standard error, after its name."""
    (line,) = done.err.strip().splitlines()
    assert line.startswith("tractbench: ")
    return line


def test_what_is_pulled_is_what_was_pushed(tractbench, hub, store, tmp_path):
    sent = push(tractbench, "--students")
    assert (sent.code, sent.out, sent.err) == (0, "", "")
    pulled = tractbench("pull", "store", REPO, "--students", "--json")
    assert pulled.code == 0
    assert pulled.json["commit"] == hub.repos["dataset", REPO].commits[-1][0]
    assert sorted(pulled.json["copied"]) == sorted(one.folder for one in store.records())
    here = Store(tmp_path / "digits")
    expected = [public(one) for one in store.records()]
    assert sorted(here.records(), key=lambda one: one.folder) == sorted(expected, key=lambda one: one.folder)
    assert check(here, Progress()) == []
    for seed in range(3):
        assert (here.root / weights(seed)).read_bytes() == (store.root / weights(seed)).read_bytes()
    assert not list((tmp_path / "cache" / "hub").rglob("*.json")), "what waited in the cache is removed"


def test_a_repository_is_itself_a_store(tractbench, hub, store, tmp_path):
    push(tractbench)
    for path, content in files(hub).items():
        (tmp_path / "clone" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / path).write_bytes(content)
    ours = Store(tmp_path / "ours", create=True)
    assert len(merge(ours, [Store(tmp_path / "clone")], Progress()).copied) == 4


def test_only_the_stores_own_files_are_sent_and_none_names_this_machine(tractbench, hub, store, tmp_path):
    push(tractbench, "--students")
    names = {path.rsplit("/", 1)[-1] for path in files(hub)}
    own = {"tractbench-store.json", "record.json", "samples.png", STUDENT, "loss.csv"}
    assert names == own | {".gitattributes", "README.md"}
    for path, content in files(hub).items():
        assert str(tmp_path).encode() not in content, path
    (failed,) = [json.loads(c) for p, c in files(hub).items() if b'"failed"' in c and p.endswith("record.json")]
    assert failed["reason"] == "cannot read .../x.npz: no such file"


def test_without_students_weights_stay_here_and_can_be_sent_and_taken_later(tractbench, hub, store, tmp_path):
    push(tractbench)
    assert not any("students" in path for path in files(hub))
    tractbench("pull", "store", REPO, "-q")
    later = push(tractbench, "--students", "--json")
    assert {path.split("/")[0] for path in later.json["files"]} == {"students"}
    assert tractbench("pull", "store", REPO, "--students", "-q").code == 0
    assert all((tmp_path / "digits" / weights(seed)).exists() for seed in range(3))


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


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("answer", "code"), [("\n", 1), ("n\n", 1), ("y\n", 0)])
def test_a_terminal_is_asked_what_would_be_sent_where_and_who_sees_it(
    tractbench, hub, store, monkeypatch, answer, code
):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    found = tractbench("push", "store", REPO, "--private", "-q")
    assert found.code == code
    assert f"dataset {REPO} at {hub.url}, private, to be made: 4 runs" in found.err
    assert "9 files, " in found.err
    assert bool(hub.writes()) == (code == 0)
    assert code == 1 or hub.repos["dataset", REPO].private


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(tractbench, hub, store):
    found = tractbench("push", "store", REPO, "--dry-run", "--json")
    assert (found.code, hub.writes(), found.json["commit"], found.json["new"]) == (0, [], None, True)
    push(tractbench)
    assert found.json["files"] == {path: len(content) for path, content in files(hub).items() if path[0] != "."}


def test_what_is_there_is_not_sent_again(tractbench, hub, store):
    push(tractbench, "--students")
    hub.asked.clear()
    again = push(tractbench, "--students", "--json")
    assert (again.code, again.json["files"], len(again.json["there"])) == (0, {}, 4)
    assert hub.writes() == []


@pytest.mark.parametrize("students_taken", [0, 1, 2])
def test_a_push_that_was_cut_off_goes_on_by_hash(tractbench, hub, store, monkeypatch, tmp_path, students_taken):
    monkeypatch.setattr(client, "BATCH_FILES", 4)  # a commit for each run
    hub.cut_upload = students_taken * (store.root / weights(0)).stat().st_size + 100
    first = push(tractbench, "--students")
    assert first.code == 2
    assert "goes on from there" in one_line(first)
    before = list(hub.sent)
    if "tractbench-store.json" in files(hub):  # what is there is a store at every commit
        assert tractbench("pull", "store", REPO, "--into", tmp_path / "half", "--students", "-q").code == 0
        assert check(Store(tmp_path / "half"), Progress()) == []
        assert len(Store(tmp_path / "half").records()) == students_taken
    hub.cut_upload = None
    assert push(tractbench, "--students").code == 0
    large = [path for path in files(hub) if path.endswith((".safetensors", ".png"))]
    assert len(hub.sent) == len(set(hub.sent)) == len(large) == 6, "nothing was sent twice"
    assert len(before) >= students_taken
    assert push(tractbench, "--students", "--json").json["files"] == {}


def test_a_run_with_other_scores_there_is_named_and_nothing_is_sent(tractbench, hub, store, tmp_path):
    push(tractbench)
    other = Store(tmp_path / "other", create=True)
    add(other, record("b", seed=1, scores=(7.0, 8.0, 9.0)))
    add(other, record("new", seed=9))
    hub.asked.clear()
    found = push(tractbench, "--runs", other.root)
    assert found.code == 1
    assert f"{record('b', seed=1).folder}: the same run has other scores in {REPO}" in found.err
    assert hub.writes() == []


def test_a_student_with_other_weights_there_is_named_and_nothing_is_sent(tractbench, hub, store, tmp_path):
    push(tractbench, "--students")
    other = Store(tmp_path / "other", create=True)
    add(other, record("another cell", seed=1), weight=2.0)
    hub.asked.clear()
    found = push(tractbench, "--runs", other.root)
    assert found.code == 1
    assert "other weights" in found.err
    assert hub.writes() == []


def test_a_done_run_replaces_a_failed_one_there_and_never_the_reverse(tractbench, hub, store, tmp_path):
    push(tractbench)
    other = Store(tmp_path / "other", create=True)
    add(other, record("d", seed=3))
    other.write(record("a", "failed", seed=0))
    found = push(tractbench, "--runs", other.root, "--json")
    assert (found.code, found.json["runs"], len(found.json["there"])) == (0, [record("d", seed=3).folder], 1)
    assert json.loads(files(hub)[f"{record('a').folder}/record.json"])["status"] == "done"
    assert tractbench("pull", "store", REPO, "-q").code == 0
    assert {one.status for one in Store(tmp_path / "digits").records()} == {"done"}
    replaced = tractbench("pull", "store", REPO, "--into", store.root, "--json")
    assert replaced.json["replaced"] == [record("d", seed=3).folder]


def test_somebody_elses_push_meanwhile_is_noticed_and_nothing_of_it_lost(tractbench, hub, store, tmp_path):
    push(tractbench)
    other = Store(tmp_path / "other", create=True)
    add(other, record("e", seed=4))
    hub.before_commit = lambda repo: repo.commit({**repo.files, "notes.txt": b"theirs"})
    found = push(tractbench, "--runs", other.root)
    assert found.code == 2
    assert "changed by somebody else meanwhile" in one_line(found)
    assert push(tractbench, "--runs", other.root).code == 0
    assert files(hub)["notes.txt"] == b"theirs"
    assert b"| tract | 1 |" in files(hub)["README.md"]
    assert len([path for path in files(hub) if path.endswith("record.json")]) == 5


def test_a_pull_in_conflict_writes_nothing(tractbench, hub, store, tmp_path):
    push(tractbench)
    ours = Store(tmp_path / "ours", create=True)
    add(ours, record("b", seed=1, scores=(7.0, 8.0, 9.0)))
    before = contents(ours.root)
    found = tractbench("pull", "store", REPO, "--into", ours.root)
    assert found.code == 1
    assert f"{record('b', seed=1).folder}: the same run has other scores" in found.err
    assert contents(ours.root) == before


def test_a_pull_whose_students_are_in_conflict_writes_nothing(tractbench, hub, store, tmp_path):
    push(tractbench, "--students")
    ours = Store(tmp_path / "ours", create=True)
    add(ours, record("another cell", seed=1), weight=2.0)
    before = contents(ours.root)
    found = tractbench("pull", "store", REPO, "--into", ours.root, "--students", "-q")
    assert found.code == 1
    assert "other weights" in found.err
    assert contents(ours.root) == before


def test_a_pull_that_was_cut_off_goes_on_with_what_is_missing(tractbench, hub, store, tmp_path):
    size = (store.root / weights(0)).stat().st_size
    push(tractbench, "--students")
    hub.cut_download = size + 100
    found = tractbench("pull", "store", REPO, "--students", "-q")
    assert found.code == 2
    assert "goes on from there" in one_line(found)
    assert not (tmp_path / "digits").exists()
    hub.cut_download = None
    (arrived,) = [path for path in (tmp_path / "cache").rglob(STUDENT) if path.is_file()]
    hub.asked.clear()
    assert tractbench("pull", "store", REPO, "--students", "-q").code == 0
    fetched = {path.split("/")[-2] for method, path in hub.asked if path.startswith("/cdn/") and path.endswith(STUDENT)}
    assert fetched == {digest(f"student {seed}") for seed in range(3)} - {arrived.parent.name}
    assert check(Store(tmp_path / "digits"), Progress()) == []


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


def test_the_card_has_means_with_intervals_and_keeps_its_owners_words(tractbench, hub, store, tmp_path):
    push(tractbench)
    card = files(hub)["README.md"].decode()
    low, high = stats.t.interval(0.95, 2, loc=7 / 3, scale=1 / 3 / math.sqrt(3))  # means of 2, 7/3 and 8/3
    assert f"| tract | 1 | {7 / 3:.2f} \\[{low:.2f}, {high:.2f}\\] | 3, 1 failed |" in card
    assert card.startswith("---\npretty_name: ")
    assert f"tractbench pull store {REPO}" in card
    repo = hub.repos["dataset", REPO]
    words = card.replace("viewer: false", "license: cc-by-4.0").replace(END, f"{END}\n\nMy own words.")
    repo.commit({**repo.files, "README.md": words.encode()})
    add(store, record("more", seed=8, scores=(9.0, 9.0, 9.0)))
    push(tractbench)
    after = files(hub)["README.md"].decode()
    assert after != words
    assert [after.partition(BEGIN)[0], after.partition(END)[2]] == [words.partition(BEGIN)[0], words.partition(END)[2]]
    assert "| 4, 1 failed |" in after
    repo.commit({**repo.files, "README.md": b"all mine"})
    add(store, record("yet more", seed=9))
    found = tractbench("push", "store", REPO, "--yes")
    assert "the card there is its owner's and stays" in found.err
    assert files(hub)["README.md"] == b"all mine"


def test_the_runs_of_others_are_in_the_card_too(tractbench, hub, store, tmp_path):
    push(tractbench)
    other = Store(tmp_path / "other", create=True)
    add(other, record("e", seed=4, metrics={"fd_feature": Metric.of((3.0, 4.0, 5.0))}))
    push(tractbench, "--runs", other.root)
    assert "5 runs" in files(hub)["README.md"].decode()
    assert "FD, features" in files(hub)["README.md"].decode()


def test_a_private_store_is_for_those_who_may_see_it(tractbench, hub, store, monkeypatch):
    push(tractbench, "--private")
    assert tractbench("pull", "store", REPO, "-q").code == 0
    monkeypatch.setenv("HF_TOKEN", "")
    assert tractbench("pull", "store", REPO, "-q").code == 2


def test_an_older_revision_can_be_taken(tractbench, hub, store, tmp_path):
    push(tractbench)
    first = hub.repos["dataset", REPO].commits[-1][0]
    add(store, record("later", seed=7))
    push(tractbench)
    assert tractbench("pull", "store", REPO, "--revision", first, "-q").code == 0
    assert len(Store(tmp_path / "digits").records()) == 4


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
