import json
import math

import pytest
from store_data import TABLE_1, record

from tractbench.config.fields import RunConfig
from tractbench.errors import DamagedFileError, StoreError
from tractbench.results.migrate import migrate, parse_record
from tractbench.results.record import Metric, RecordedConfig, counting

LINES = TABLE_1.read_bytes().splitlines()


def test_metric_summary_is_the_sample_standard_deviation():
    metric = Metric.of([1.0, 2.0, 4.0])
    assert metric.mean == pytest.approx(7 / 3)
    assert metric.std == pytest.approx((((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) ** 0.5)
    assert Metric.of([1.0]).std is None


@pytest.mark.parametrize("line", LINES, ids=["tract", "ddim", "tract of other sampling seeds"])
def test_a_record_of_the_first_release_is_read_with_all_it_says(line):
    old = json.loads(line)
    found = parse_record(line, "line")
    new = json.loads(found.model_dump_json())
    assert (new["version"], new["training_version"], new["scoring_version"], new["failure"]) == (2, 2, 2, None)
    assert new["training"].pop("environment") == {}
    kept = old.keys() - {"version", "results_version"}
    assert {key: new[key] for key in kept} == {key: old[key] for key in kept}
    assert parse_record(found.model_dump_json().encode(), "line") == found


def test_migration_is_pure_and_a_failure_of_the_first_release_is_a_divergence():
    old = json.loads(LINES[0]) | {"status": "failed", "reason": "loss is nan"}
    before = json.dumps(old)
    assert migrate(old)["failure"] == "diverged"
    assert json.dumps(old) == before


def test_the_current_version_migrates_to_itself():
    raw = json.loads(record().model_dump_json())
    assert migrate(raw) == raw


def test_a_newer_record_is_refused_by_name_and_with_the_remedy():
    raw = json.loads(record().model_dump_json()) | {"version": 3, "status": "paused"}
    with pytest.raises(
        StoreError, match=r"^cells/x/record.json \(version 3\) was written by a newer tractbench; upgrade$"
    ):
        parse_record(json.dumps(raw).encode(), "cells/x/record.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"version": true}', '{"version": 1}', '{"version": 2}', "nul", "9" * 5000]
)
def test_what_is_no_record_is_one_line(text):
    with pytest.raises(DamagedFileError, match=r"^here is damaged") as caught:
        parse_record(text.encode(), "here")
    assert "\n" not in str(caught.value)


def test_a_configuration_is_kept_as_it_was_written():
    raw = json.loads(record().model_dump_json())
    del raw["config"]["precision"]
    raw["config"] |= {"invented": {"deep": [1, 2.5, None, "x"]}, "schedule": [7, 5]}  # no run could have it
    raw |= {"weather": "fine"}
    raw["metrics"]["fd_pixel"]["median"] = 2.0
    found = parse_record(json.dumps(raw).encode(), "here")
    assert found.config.precision == "fp32"
    assert json.loads(found.model_dump_json()) == raw


def test_every_setting_has_the_default_that_it_was_introduced_with():
    required = {"method", "dataset", "tier"}
    assert {n for n, f in RecordedConfig.model_fields.items() if f.is_required()} == required
    assert RunConfig.model_fields.keys() == RecordedConfig.model_fields.keys()
    free = {"teacher", "grid_steps", "sampling_seeds", "samples"}  # always written
    for name in RunConfig.model_fields.keys() - required - free:
        default = RunConfig.model_fields[name].get_default(call_default_factory=True)
        assert RecordedConfig.model_fields[name].default == default, name


def test_scores_that_are_not_finite_come_back():
    made = record(metrics={"fid": Metric(mean=math.nan, std=None, per_seed=(math.nan, math.inf, -math.inf))})
    raw = json.loads(made.model_dump_json())
    raw["basis"] = {"limit": math.inf}
    found = parse_record(json.dumps(raw).encode(), "here")
    assert str(found.metrics["fid"].per_seed) == "(nan, inf, -inf)"
    assert json.loads(found.model_dump_json())["basis"] == {"limit": math.inf}


def test_a_done_record_counts_until_another_done_one_and_nothing_else_hides_it():
    failed, first, second = record(status="failed"), record(created="first"), record(created="second")
    stopped = record(status="interrupted", reason="stopped")
    assert counting([failed, stopped]) == [stopped]
    assert counting([failed, first, stopped]) == [first]
    assert counting([first, failed, second]) == [second]
    other = record("other")
    assert counting([first, other, second]) == [other, second]
