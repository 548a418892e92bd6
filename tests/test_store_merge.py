import pytest
from store_data import add, contents, digest, format1, record

from tractbench.progress import Progress
from tractbench.results import merge as merging
from tractbench.results.check import check, repair
from tractbench.results.merge import merge
from tractbench.results.store import STUDENT, Store


@pytest.fixture
def stores(tmp_path):
    """A store to merge into and one to merge."""
    return Store(tmp_path / "ours", create=True), Store(tmp_path / "theirs", create=True)


def test_cells_and_students_are_copied_and_a_second_time_skipped(tractbench, stores):
    ours, theirs = stores
    add(ours, record("a"))
    add(theirs, record("b", seed=1))
    add(theirs, record("c", "failed", seed=2))
    command = ("store", "merge", theirs.root, "--into", ours.root, "--json", "-q")
    found = tractbench(*command)
    assert found.code == 0, found.err
    assert [len(found.json[kind]) for kind in ("copied", "replaced", "skipped", "refused")] == [2, 0, 0, 0]
    assert len(ours.records()) == 3
    assert contents(theirs.root).items() <= contents(ours.root).items()
    assert check(ours, Progress()) == []
    again = tractbench(*command)
    assert [len(again.json[kind]) for kind in ("copied", "replaced", "skipped", "refused")] == [0, 0, 2, 0]
    assert "2 skipped" in tractbench("store", "merge", theirs.root, "--runs", ours.root).out


def test_the_same_run_with_other_scores_is_refused_by_name_and_the_others_go_on(tractbench, stores):
    ours, theirs = stores
    add(ours, record("a"))
    add(theirs, record("a", scores=(1.0, 2.0, 4.5)))
    add(theirs, record("b", seed=1))
    before = contents(ours.root)
    found = tractbench("store", "merge", theirs.root, "--into", ours.root, "--json", "-q")
    assert found.code == 1
    assert "other scores" in found.err
    assert record("a").folder in found.err
    assert [len(found.json[kind]) for kind in ("copied", "replaced", "skipped", "refused")] == [1, 0, 0, 1]
    after = contents(ours.root)
    assert {name: after[name] for name in before} == before


def test_a_done_run_replaces_a_failed_one_and_not_the_other_way_round(stores):
    ours, theirs = stores
    add(ours, record("a", "failed"))
    add(theirs, record("a"))
    assert merge(ours, [theirs], Progress()).replaced == [record("a").folder]
    assert ours.records() == [record("a")]
    other = Store(theirs.root.with_name("failed"), create=True)
    add(other, record("a", "interrupted"))
    assert merge(ours, [other], Progress()).skipped == [record("a").folder]
    assert ours.records() == [record("a")]


def test_a_student_with_other_weights_or_damaged_ones_keeps_its_cells_out(stores):
    ours, theirs = stores
    add(ours, record("a"))
    add(theirs, record("b"), weight=2.0)
    add(theirs, record("c", seed=1))
    path = theirs.student_folder(digest("student 1")) / STUDENT
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    before = contents(ours.root)
    merged = merge(ours, [theirs], Progress())
    assert ["other weights" in merged.refused[0], "is damaged" in merged.refused[1]] == [True, True]
    assert contents(ours.root) == before


def test_a_store_of_the_first_format_is_merged_as_if_it_had_been_migrated(tmp_path, stores):
    ours, _ = stores
    old = Store(format1(tmp_path / "old"))
    assert len(merge(ours, [old], Progress()).copied) == 3
    assert check(ours, Progress()) == []
    before = old.records()
    repair(old, Progress())
    assert merge(ours, [Store(old.root)], Progress()).skipped == [one.folder for one in Store(old.root).records()]
    skip = {"folder", "training"}
    assert [r.model_dump(exclude=skip) for r in ours.records()] == [r.model_dump(exclude=skip) for r in before]


@pytest.mark.parametrize("moment", range(10))
def test_a_merge_killed_at_any_point_is_finished_by_another(stores, monkeypatch, moment):
    ours, theirs = stores
    for one in (record("a"), record("b"), record("c", seed=1)):
        add(theirs, one)
    calls = []

    class KilledError(BaseException):
        pass

    def dying(source, target, original=merging._copy_bytes):
        calls.append(0)
        if len(calls) > moment:
            target.write_bytes(source.read_bytes()[:1])
            raise KilledError
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_copy_bytes", dying)
        try:
            merge(ours, [theirs], Progress())
        except KilledError:
            assert [one.kind for one in check(ours, Progress()) if one.kind != "no record"] == []
    merge(ours, [theirs], Progress())
    assert contents(theirs.root).items() <= contents(ours.root).items()
    assert check(ours, Progress()) == []


def test_what_is_damaged_there_is_named_and_passed_over(tractbench, stores):
    ours, theirs = stores
    add(theirs, record("a"))
    add(theirs, record("b", seed=1))
    (theirs.root / record("a").folder / "record.json").write_text("{")
    found = tractbench("store", "merge", theirs.root, "--into", ours.root, "-q")
    assert found.code == 0
    assert "is damaged" in found.err
    assert [r.identity for r in ours.records()] == [digest("b")]


def test_a_store_is_not_merged_into_itself_or_into_one_of_the_first_format(tractbench, tmp_path, stores):
    ours, theirs = stores
    add(ours, record("a"))
    add(theirs, record("b"))
    assert "into itself" in tractbench("store", "merge", ours.root, "--into", ours.root).err
    old = format1(tmp_path / "old")
    assert "store check --repair" in tractbench("store", "merge", theirs.root, "--into", old).err


def test_a_student_that_is_missing_here_is_brought(stores):
    ours, theirs = stores
    add(theirs, record("a"))
    ours.write(record("a"))
    assert merge(ours, [theirs], Progress()).skipped == [record("a").folder]
    assert (ours.student_folder(record("a").student) / STUDENT).read_bytes() == student_bytes_of(theirs, "a")


def student_bytes_of(store, name):
    return (store.student_folder(record(name).student) / STUDENT).read_bytes()


def test_a_whole_merge_writes_nothing_if_any_run_is_refused(stores):
    ours, theirs = stores
    add(ours, record("a"))
    add(theirs, record("a", scores=(7.0, 8.0, 9.0)))
    add(theirs, record("b", seed=1))
    before = contents(ours.root)
    merged = merge(ours, [theirs], Progress(), whole=True)
    assert (len(merged.refused), merged.copied) == (1, [])
    assert contents(ours.root) == before
