import json
from contextlib import suppress

import pytest
from store_data import TABLE_1, add, contents, digest, format1, record, write_student

from tractbench.io.tensors import save_tensors
from tractbench.progress import Progress
from tractbench.results import upgrade as upgrading
from tractbench.results.check import check, repair
from tractbench.results.locks import exclusive
from tractbench.results.store import MARKER, STUDENT, Store


@pytest.fixture
def store(tmp_path):
    """Three runs of two students."""
    store = Store(tmp_path / "runs", create=True)
    for one in (record("a"), record("b"), record("c", seed=1)):
        add(store, one)
    return store


def kinds(store):
    return [problem.kind for problem in check(store, Progress())]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_a_good_store_has_no_problem(tractbench, store):
    assert kinds(store) == []
    before = contents(store.root)
    assert tractbench("store", "check", "--runs", store.root, "-q").code == 0
    assert tractbench("store", "check", "--repair", "--runs", store.root, "-q").code == 0
    assert contents(store.root) == before


def test_each_thing_wrong_is_named_and_what_can_be_mended_is(tractbench, store):
    (store.root / record("a").folder / "record.json").write_text('{"version": 2, "ide')
    (store.root / "cells" / "killed").mkdir()
    flip(store.student_folder(digest("student 1")) / STUDENT)
    (store.root / "cells" / "killed" / ".config.json.x.tmp").write_text("half")
    copy = store.root / "cells" / "copy"
    copy.mkdir()
    (copy / "record.json").write_text(record("b").model_dump_json())
    expected = ["damaged record", "no record", "repeated run", "damaged student", "stale index", "leftover"]
    assert sorted(kinds(store)) == sorted(expected)
    listed = tractbench("store", "check", "--runs", store.root, "--json", "-q")
    assert listed.code == 1
    assert sorted(problem["kind"] for problem in listed.json["problems"]) == sorted(expected)
    everything = contents(store.root)

    mended = tractbench("store", "check", "--repair", "--runs", store.root, "--json", "-q")
    assert mended.code == 1  # the run of the damaged student still wants its weights
    assert [problem["kind"] for problem in mended.json["problems"]] == ["missing student"]
    assert [r.folder for r in store.records()] == [record("b").folder, record("c", seed=1).folder]
    kept = contents(store.root)
    for name, content in everything.items():
        assert content in (kept.get(name), kept.get(f"damaged/{name}")), name
    again = tractbench("store", "check", "--repair", "--runs", store.root, "--json", "-q")
    assert (again.code, again.json["done"]) == (1, [])


def test_a_second_damaged_file_of_one_name_does_not_replace_the_first(store):
    student = store.student_folder(digest("student 1")) / STUDENT
    for weight in (2.0, 3.0):
        write_student(student, digest("student 1"), weight)
        flip(student)
        repair(store, Progress())
    found = sorted((store.root / "damaged").rglob("student*.safetensors*"))
    assert len({path.read_bytes() for path in found}) == 2


def test_the_weights_of_another_student_are_damage(store):
    write_student(store.student_folder(digest("student 1")) / STUDENT, "somebody else")
    assert kinds(store) == ["damaged student"]


def test_a_folder_that_is_being_written_and_a_newer_record_are_left_alone(store):
    with exclusive(store.root / "cells" / "running"):
        assert kinds(store) == []
    path = store.root / record("a").folder / "record.json"
    path.write_text('{"version": 9}')
    repair(store, Progress())
    assert kinds(store) == ["newer record"]
    assert path.read_text() == '{"version": 9}'


def test_a_missing_index_is_the_only_thing_wrong_and_is_renewed(store):
    (store.root / "records.jsonl").unlink()
    assert kinds(store) == ["stale index"]
    assert repair(store, Progress()) == ["renewed records.jsonl"]
    assert kinds(store) == []


# From the first format


def test_the_first_format_is_migrated_with_every_file(tractbench, tmp_path):
    root = format1(tmp_path / "old")
    old = {path.read_bytes() for path in root.rglob("*") if path.name in (STUDENT, "samples.png", "loss.csv")}
    before = Store(root).records()
    assert tractbench("store", "check", "--runs", root, "-q").code == 1
    assert tractbench("store", "check", "--repair", "--runs", root, "-q").code == 0
    store = Store(root)
    assert store.format == 2
    assert kinds(store) == []
    after = store.records()
    same = {"folder", "training"}
    assert [r.model_dump(exclude=same) for r in after] == [r.model_dump(exclude=same) for r in before]
    assert len(list((root / "students").iterdir())) == 1  # of two cells
    assert old <= set(contents(root).values())
    assert (root / "records-format1.jsonl").read_bytes() == TABLE_1.read_bytes()
    assert after[2].training.reused_from == after[0].folder.removeprefix("cells/")
    for one in after:
        assert (root / one.folder / "samples.png").read_bytes() == b"picture of " + one.identity.encode()
        written = json.loads((root / one.folder / "config.json").read_text())
        assert written.items() <= one.config.model_dump(mode="json").items()  # later fields are at their defaults
        assert type(one.config).model_validate(written) == one.config
        assert store.find(one.identity) == one
    assert tractbench("store", "check", "--repair", "--runs", root, "--json", "-q").json["done"] == []


@pytest.mark.parametrize("moment", range(18))
def test_a_migration_killed_at_any_point_is_finished_by_another(tmp_path, monkeypatch, moment):
    whole = Store(format1(tmp_path / "whole"))
    repair(whole, Progress())
    store = Store(format1(tmp_path / "killed"))
    calls = []

    class KilledError(BaseException):
        pass

    def dying(work):
        def step(*arguments, **named):
            calls.append(0)
            if len(calls) > moment:
                raise KilledError
            return work(*arguments, **named)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "write_atomic", dying(upgrading.write_atomic))
        for name in ("rename", "unlink"):
            patch.setattr(upgrading.Path, name, dying(getattr(upgrading.Path, name)))
        with suppress(KilledError):
            repair(store, Progress())
    left = Store(store.root)
    assert len(left.records()) == 3
    assert bool(left.damaged) == (left.format == 1 and (store.root / "cells").exists())
    repair(Store(store.root), Progress())
    assert contents(store.root) == contents(whole.root)
    assert kinds(Store(store.root)) == []


def test_runs_that_only_a_table_or_only_a_folder_knows_are_migrated_too(tmp_path):
    root = format1(tmp_path / "old")
    first, second, third = (root / record.folder for record in Store(root).records())
    for path in second.iterdir():
        path.unlink()
    second.rmdir()
    lines = (root / "records.jsonl").read_bytes().splitlines(keepends=True)
    (root / "records.jsonl").write_bytes(lines[0][:200] + b"\n" + lines[1] + lines[2])
    repair(Store(root), Progress())
    assert [r.config.method for r in Store(root).records()] == ["tract", "ddim", "tract"]
    assert kinds(Store(root)) == []
    assert not first.exists()
    assert not third.exists()


def test_weights_that_differ_between_cells_of_a_student_stay_with_their_cells(tmp_path):
    root = format1(tmp_path / "old")
    first, _, third = Store(root).records()
    write_student(root / third.folder / STUDENT, third.student, weight=2.0)
    other = (root / third.folder / STUDENT).read_bytes()
    repair(Store(root), Progress())
    cell = root / Store(root).find(third.identity).folder
    assert (cell / STUDENT).read_bytes() == other
    assert (root / "students" / first.student / STUDENT).read_bytes() != other
    flip(cell / STUDENT)
    assert kinds(Store(root)) == ["damaged student"]


def test_checkpoints_beside_a_finished_student_are_named(store):
    student = digest("student 1")
    for name in ("checkpoint-000000005", "forced-checkpoint-000000005", "forced-checkpoint-000000009"):
        save_tensors(store.student_folder(student) / f"{name}.safetensors", {}, {"student": student})
    with exclusive(store.student_folder(student)):
        assert kinds(store) == []
    assert kinds(store) == ["leftover", "unfinished", "unfinished"]
    assert repair(store, Progress()) == [f"removed students/{student}/checkpoint-000000005.safetensors"]
    assert kinds(store) == ["unfinished", "unfinished"]  # the same command with --force goes on from them


def test_a_run_that_never_ended_is_set_aside_with_its_checkpoint(tmp_path):
    root = format1(tmp_path / "old")
    folder = root / "tract-digits-small-nfe1-seed5-0123abcd-89abcdef"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_tensors(folder / "checkpoint.safetensors", {}, {"student": "0123abcd" * 8})
    repair(Store(root), Progress())
    aside = root / "damaged" / "cells" / folder.name
    assert {path.name for path in aside.iterdir()} >= {"config.json", "checkpoint.safetensors"}
    assert kinds(Store(root)) == []


def test_a_store_that_is_being_written_is_not_migrated(tractbench, tmp_path):
    root = format1(tmp_path / "old")
    with exclusive(root / Store(root).records()[0].folder):
        found = tractbench("store", "check", "--repair", "--runs", root, "-q")
    assert found.code == 2
    assert "being written by another process" in found.err
    assert json.loads((root / MARKER).read_text()) == {"format": 1}
