import json
import os
import subprocess
import sys
import threading

import pytest
from store_data import add, format1, record

from tractbench.errors import DamagedFileError, InterruptedRunError, StoreError
from tractbench.io.files import write_atomic
from tractbench.results.index import INDEX
from tractbench.results.record import RecordedConfig
from tractbench.results.store import MARKER, STUDENT, Store, cell_name, student_file


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", create=True)


def lines(store):
    return [line for line in (store.root / INDEX).read_bytes().splitlines() if line]


# Records


def test_records_come_back_as_they_went_in_oldest_first(store):
    late, early = record("a", created="2026-02-01T00:00:00+00:00"), record("b", "failed", seed=1)
    for one in (late, early):
        store.write(one)
    assert Store(store.root).records() == [early, late]
    assert store.damaged == []


def test_any_character_in_a_reason_is_read_back(store):
    reason = "ends of lines: \u2028 \u2029 \x85 \x0b \r\n"
    store.write(record("a", "failed", reason=reason))
    store.write(record("b"))
    assert {one.reason for one in store.records()} == {reason, None}


def test_a_done_run_stays_done_and_otherwise_the_newest_end_counts(store):
    store.write(record(status="failed", reason="first"))
    assert store.find(record().identity) is None
    store.write(record(status="interrupted", reason="second"))
    assert [r.status for r in store.records()] == ["interrupted"]
    store.write(record(created="2026-01-02T00:00:00+00:00"))
    store.write(record(status="failed", reason="third"))
    assert [r.status for r in store.records()] == ["done"]
    store.write(record(created="2026-01-03T00:00:00+00:00"))
    assert store.find(record().identity).created == "2026-01-03T00:00:00+00:00"
    log = (store.root / record().folder / "log.txt").read_text().splitlines()
    assert [line.partition(" ")[2] for line in log] == ["failed: third; the earlier result stays"]


def test_a_run_is_found_without_the_index(store):
    add(store, record())
    (store.root / INDEX).write_text("nonsense")
    assert store.find(record().identity) == record()
    assert store.find(record().identity[:16] + "0" * 48) is None
    assert (store.root / INDEX).read_text() == "nonsense"


def test_names_are_those_that_every_file_system_takes():
    config = RecordedConfig(method="My.Méthod", dataset="imagenet64:npz", tier="paper/..", nfe=2, seed=7)
    assert cell_name(config) == "my.m-thod-imagenet64-npz-paper-..-nfe2-seed7"
    assert cell_name(config.model_copy(update={"method": "..m"})).startswith("m-")


def test_a_students_file_is_the_cells_own_or_the_shared_one(store):
    cell = store.root / record().folder
    assert student_file(cell, "abc", STUDENT) == store.student_folder("abc").absolute() / STUDENT
    cell.mkdir(parents=True)
    (cell / STUDENT).touch()
    assert student_file(cell, "abc", STUDENT) == cell / STUDENT
    assert student_file(store.root / "old-run", "abc", STUDENT) == store.root / "old-run" / STUDENT


# The index


@pytest.mark.parametrize("spoil", [
    lambda content: b"",
    lambda content: b"\xef\xbb\xbf" + content,
    lambda content: b"\n\n" + content,
    lambda content: content.replace(b"\n", b"\r\n"),
    lambda content: content[:-40],
    lambda content: content + b'{"folder": "half',
    lambda content: content + b"\xff\xfe\x00\n",
    lambda content: content * 2,
    lambda content: content.splitlines(keepends=True)[1] * 2,
    lambda content: content.replace(b"cells/", b"cells/gone-"),
    lambda content: b"[" * 100_000,
])  # fmt: skip
def test_whatever_happens_to_the_index_no_record_is_lost_or_told_twice(store, spoil):
    written = [record("a"), record("b", seed=1)]
    for one in written:
        store.write(one)
    (store.root / INDEX).write_bytes(spoil((store.root / INDEX).read_bytes()))
    assert sorted(store.records(), key=lambda r: r.config.seed) == written
    assert store.damaged == []
    assert store.index_is_current()
    assert len(lines(store)) == 2


def test_a_missing_index_is_made_again_and_one_that_cannot_be_written_does_without(store):
    store.write(record())
    (store.root / INDEX).unlink()
    assert store.records() == [record()]
    assert len(lines(store)) == 1
    (store.root / INDEX).unlink()
    (store.root / INDEX).mkdir()
    assert store.records() == [record()]
    store.write(record("b", seed=1))
    assert len(store.records()) == 2


def test_a_line_after_a_torn_one_is_whole(store):
    store.write(record("a"))
    with (store.root / INDEX).open("ab") as handle:
        handle.write(b'{"half')
    store.write(record("b", seed=1))
    assert lines(store)[1] == b'{"half'
    assert json.loads(lines(store)[2])["record"]["config"]["seed"] == 1


def test_a_record_changed_by_hand_is_read_again(store):
    store.write(record())
    path = store.root / record().folder / "record.json"
    path.write_text(path.read_text().replace('"failure": null', '"failure": null, "note": "kept"'))
    assert store.records()[0].note == "kept"
    assert json.loads(lines(store)[0])["record"]["note"] == "kept"


def test_a_run_whose_folder_is_deleted_is_gone_and_a_renamed_one_is_found(store):
    for one in (record("a"), record("b", seed=1)):
        store.write(one)
    folder = store.root / record("a").folder
    folder.rename(folder.with_name("renamed"))
    assert [r.folder for r in store.records()] == ["cells/renamed", record("b", seed=1).folder]
    for path in (store.root / "cells" / "renamed").iterdir():
        path.unlink()
    (store.root / "cells" / "renamed").rmdir()
    assert [r.config.seed for r in store.records()] == [1]
    assert len(lines(store)) == 1


def test_a_copied_folder_is_no_second_run(store):
    store.write(record())
    copy = store.root / "cells" / "copy"
    copy.mkdir()
    write_atomic(copy / "record.json", (store.root / record().folder / "record.json").read_bytes())
    assert len(store.records()) == 1


@pytest.mark.parametrize(("content", "reason"), [
    (b'{"version": 2, "ident', "is damaged"),
    (b"", "is damaged"),
    (b'{"version": 9}', "was written by a newer tractbench; upgrade"),
])  # fmt: skip
def test_a_damaged_record_is_passed_over_and_named(store, content, reason):
    for one in (record("a"), record("b", seed=1)):
        store.write(one)
    path = store.root / record("a").folder / "record.json"
    path.write_bytes(content)
    for _ in range(2):
        assert [r.config.seed for r in store.records()] == [1]
        (line,) = store.damaged
        assert line.startswith(str(path))
        assert reason in line
    assert len(lines(store)) == 1


def test_every_reading_verb_passes_over_a_damaged_record(tractbench, store):
    for seed in range(2):
        store.write(record(str(seed), seed=seed))
    (store.root / record("0").folder / "record.json").write_text("{")
    for verb in (("list", "runs"), ("report", "--format", "csv"), ("verify",), ("explain", "digits/tract/1")):
        found = tractbench(*verb, "--runs", store.root)
        assert found.code == 0, verb
        assert found.err.count("is damaged") == 1, verb
    import tractbench as package

    with pytest.warns(UserWarning, match="is damaged"):
        assert len(package.load_results(store.root)) == 1


def test_a_newer_runs_record_is_not_overwritten(store):
    store.write(record())
    path = store.root / record().folder / "record.json"
    path.write_text('{"version": 9}')
    for reach in (lambda: store.write(record()), lambda: store.find(record().identity)):
        with pytest.raises(StoreError, match="newer tractbench; upgrade"):
            reach()
    assert path.read_text() == '{"version": 9}'


# What is a store


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "x"', '{"format": "x"}', '{"format": 0}', ""])
def test_a_damaged_marker_is_one_line(tmp_path, content):
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(DamagedFileError, match=r'damaged; write \{"format": 2\} into it'):
        Store(tmp_path)


def test_a_newer_store_and_a_foreign_folder_are_refused_untouched(tmp_path):
    (tmp_path / MARKER).write_text('{"format": 3}')
    with pytest.raises(StoreError, match="newer tractbench; upgrade"):
        Store(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.doc").write_text("precious")
    with pytest.raises(StoreError, match="not a tractbench store"):
        Store(foreign, create=True)
    assert [p.name for p in foreign.iterdir()] == ["thesis.doc"]
    with pytest.raises(StoreError, match="not a tractbench store"):
        Store(foreign / "thesis.doc", create=True)


def test_reading_never_creates_a_store(tmp_path):
    with pytest.raises(StoreError, match="no results"):
        Store(tmp_path / "none")
    assert Store(tmp_path / "none", create=True).records() == []
    assert not (tmp_path / "none").exists()


def test_a_store_of_the_first_format_is_read_and_never_written(tractbench, tmp_path):
    store = Store(format1(tmp_path / "old"))
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    assert [r.config.method for r in store.records()] == ["tract", "ddim", "tract"]
    first = store.records()[0]
    assert store.find(first.identity) == first
    run = tractbench("run", "--method", "ddim", "--dataset", "digits", "--tier", "smoke", "--runs", store.root, "-q")
    assert run.code == 2
    assert "tractbench store check --repair --runs" in run.err
    assert len(run.err.splitlines()) == 1
    for refused in (lambda: store.write(first), lambda: store.lock_cell(store.root / "x").__enter__()):
        with pytest.raises(StoreError, match="format 1"):
            refused()
    report = tractbench("report", "--format", "csv", "--runs", store.root)
    assert (report.code, len(report.out.splitlines())) == (0, 4)
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == before


def test_a_damaged_line_of_a_first_table_is_passed_over(tmp_path):
    store = Store(format1(tmp_path / "old"))
    table = store.root / "records.jsonl"
    one, two, three = table.read_bytes().splitlines()
    table.write_bytes(b"\xef\xbb\xbf" + one + b"\r\n\n" + two[:99] + b"\n" + three + b'\n{"half')
    assert [r.config.method for r in store.records()] == ["tract", "tract"]
    assert [text.split(" is ")[0] for text in store.damaged] == [f"{table} line 3", f"{table} line 5"]


# Locks


def test_a_folder_in_use_is_refused(store):
    folder = store.root / "cells" / "cell"
    with store.lock_cell(folder), pytest.raises(StoreError, match="another process"), store.lock_cell(folder):
        pass


def test_what_a_killed_process_left_half_written_is_removed_under_the_lock(store):
    folder = store.root / "cells" / "cell"
    folder.mkdir(parents=True)
    (folder / ".record.json.abc.tmp").write_text("half")
    with store.lock_cell(folder):
        assert [p.name for p in folder.iterdir()] == [".lock"]


HOLD = """
import sys
from pathlib import Path
from tractbench.results.store import Store
with Store(Path(sys.argv[1]), create=True).lock_student("abc", "the other cell", print, lambda: False):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(store):
    """Another process that trains a student."""
    command = [sys.executable, "-c", HOLD, str(store.root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_student_is_waited_for_and_taken_over_when_its_holder_dies(store, holder):
    said = []

    def wait(text):
        said.append(text)
        threading.Timer(0.2, holder.kill).start()

    with store.lock_student("abc", "our cell", wait, lambda: False):
        owner = json.loads((store.student_folder("abc") / "owner.json").read_text())
        assert (owner["cell"], owner["pid"]) == ("our cell", os.getpid())
    (text,) = said
    assert text.startswith(f"student abc is being trained by the other cell (process {holder.pid} on ")
    assert not (store.student_folder("abc") / "owner.json").exists()


def test_waiting_for_a_student_ends_when_it_is_asked_to(store, holder):
    with pytest.raises(InterruptedRunError, match="the same command goes on"):
        store.lock_student("abc", "our cell", lambda text: None, lambda: True).__enter__()


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
