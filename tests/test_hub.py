"""Results stores to and from the Hub, against a server of its API on loopback."""

import io
import json
import math
import sys

import pytest
from hub_data import REPO, files, one_line, push, three_runs, weights
from scipy import stats
from store_data import add, contents, digest, record

from tractbench.hub import client
from tractbench.hub.card import BEGIN, END
from tractbench.hub.outgoing import public
from tractbench.progress import Progress
from tractbench.results.check import check
from tractbench.results.merge import merge
from tractbench.results.record import Metric
from tractbench.results.store import STUDENT, Store


@pytest.fixture
def store(tmp_path):
    return three_runs(tmp_path)


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
