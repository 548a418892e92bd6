import json

import pytest

from tractbench.config.resolve import resolve
from tractbench.errors import DamagedFileError, StoreError
from tractbench.io.files import write_atomic
from tractbench.results.record import Metric, Record
from tractbench.results.store import MARKER, TABLE, Store


def record(identity="a" * 64, status="done", seed=0, **changes):
    config, _, _ = resolve({"method": "tract", "dataset": "digits", "seed": seed})
    values = {
        "identity": identity,
        "student": "b" * 64,
        "results_version": 1,
        "status": status,
        "created": "2026-01-01T00:00:00+00:00",
        "config": config,
        "metrics": {"fd_pixel": Metric.of([1.0, 2.0, 4.0])} if status == "done" else {},
        "folder": "folder",
    }
    return Record.model_validate(values | changes)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", create=True)


def test_records_come_back_as_they_went_in(store):
    written = [record("a" * 64), record("c" * 64, "failed", reason="loss is nan")]
    for one in written:
        store.append(one)
    assert Store(store.root).records() == written


def test_any_character_in_a_reason_is_read_back(store):
    reason = "ends of lines: \u2028 \u2029 \x85 \x0b \r\n"
    store.append(record("a" * 64, "failed", reason=reason))
    store.append(record("c" * 64))
    assert [one.reason for one in store.records()] == [reason, None]


def test_metric_summary_is_the_sample_standard_deviation():
    metric = Metric.of([1.0, 2.0, 4.0])
    assert metric.mean == pytest.approx(7 / 3)
    assert metric.std == pytest.approx((((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) ** 0.5)
    assert Metric.of([1.0]).std is None


def test_a_done_record_counts_until_another_done_one_and_a_failure_never_hides_it(store):
    store.append(record(status="failed", reason="x"))
    assert store.find("a" * 64) is None
    assert [r.status for r in store.latest()] == ["failed"]
    store.append(record(created="first"))
    store.append(record(status="failed", reason="y"))
    assert store.find("a" * 64).created == "first"
    store.append(record(created="second"))
    assert [r.created for r in store.latest()] == ["second"]
    assert len(store.records()) == 4


def test_a_torn_line_does_not_swallow_the_next_record(store):
    store.append(record())
    table = store.root / TABLE
    table.write_bytes(table.read_bytes() + b'{"half')
    store.append(record("d" * 64))
    lines = table.read_text().splitlines()
    assert lines[1] == '{"half'
    assert json.loads(lines[2])["identity"] == "d" * 64
    with pytest.raises(DamagedFileError, match="line 2 is damaged"):
        store.records()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "x"', ""])
def test_a_damaged_marker_is_one_line(tmp_path, content):
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(DamagedFileError, match="damaged; write"):
        Store(tmp_path)


def test_a_newer_store_and_a_foreign_folder_are_refused_untouched(tmp_path):
    (tmp_path / MARKER).write_text('{"format": 2}')
    with pytest.raises(StoreError, match="newer tractbench"):
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
    assert not (tmp_path / "none").exists()


def test_a_folder_in_use_is_refused(store):
    folder = store.root / "cell"
    with store.lock(folder), pytest.raises(StoreError, match="another process"), store.lock(folder):
        pass


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
