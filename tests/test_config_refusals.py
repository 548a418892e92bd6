"""Refused settings: one line that names the value and a way out, which itself works."""

import math
import re
import signal
from contextlib import contextmanager, suppress

import hypothesis
import pytest
from config_data import config, refusal
from hypothesis import given
from hypothesis import strategies as st

from tractbench.config.fields import RunConfig
from tractbench.config.numbers import parse_integers
from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError


@contextmanager
def seconds(limit):
    """Fail instead of hanging."""

    def late(*_):
        raise TimeoutError(f"no answer within {limit} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# A remedy is itself a setting that works.


def error_of(settings):
    try:
        resolve(settings)
    except ConfigError as error:
        return str(error)
    return None


def proposed_by(message):
    found = re.search(r"try (\d[\d,]*)", message)
    assert found, message
    return found[1]


@hypothesis.settings(deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=4))
def test_the_schedule_that_is_proposed_instead_is_valid(schedule):
    message = error_of({"method": "tract", "dataset": "digits", "schedule": schedule})
    if message is not None:
        proposed = proposed_by(message)
        assert config(schedule=proposed).schedule == parse_integers(proposed)


@hypothesis.settings(deadline=None)
@given(st.sampled_from(["tract", "ddim"]), st.integers(1, 4096))
def test_the_schedule_or_nfe_that_is_proposed_instead_of_an_nfe_is_valid(method, nfe):
    settings = {"method": method, "dataset": "digits"}
    message = error_of(settings | {"nfe": nfe})
    if message is not None:
        assert str(nfe) in message
        proposed = proposed_by(message)
        resolve(settings | ({"schedule": proposed} if "," in proposed else {"nfe": int(proposed)}))


def test_the_proposed_entry_is_the_nearest_in_ratio():
    assert "try 1024,32,1" in refusal({"method": "tract", "dataset": "digits", "schedule": "1024,30,1"})
    assert "try 1024,64" in refusal({"method": "tract", "dataset": "digits", "schedule": "1024,50"})


def test_the_smallest_budget_that_is_proposed_is_enough():
    message = refusal({"method": "tract", "dataset": "digits", "budget": 5, "batch": 100})
    assert "give at least 200" in message
    assert config(budget=200, batch=100).budget == 200
    refusal({"method": "tract", "dataset": "digits", "budget": 199, "batch": 100})


# Refusals: one line that names the value and the way out.


@pytest.mark.parametrize(
    ("settings", "value", "remedy"),
    [
        ({"method": "trac"}, "'trac'", "did you mean 'tract'"),
        ({"method": "zzz"}, "'zzz'", "known: "),
        ({"method": None}, "method", "--method NAME"),
        ({"dataset": "digit"}, "'digit'", "did you mean 'digits'"),
        ({"dataset": None}, "dataset", "--dataset NAME"),
        ({"tier": "smal"}, "'smal'", "did you mean 'small'"),
        ({"process": "vpp"}, "'vpp'", "did you mean 'vp'"),
        ({"bugdet": 3}, "'bugdet'", "did you mean 'budget'"),
        ({"clip_targt": True}, "'clip_targt'", "did you mean 'clip_target'"),
        ({"options": {"clip_target": False}}, "'options'", "did you mean"),
        ({"loss_weight": "snrr"}, "'snrr'", "did you mean 'snr'"),
        ({"lr_schedule": "liner"}, "'liner'", "did you mean 'linear'"),
        ({"ema_reset": "phases"}, "'phases'", "did you mean 'phase'"),
        ({"phase_start": "teacher"}, "'teacher'", "did you mean 'from_teacher'"),
        ({"clip_target": "maybe"}, "'maybe'", "boolean"),
        ({"schedule": "1024,30,1"}, "1024,30,1", "try 1024,32,1"),
        ({"schedule": "1024,32,1", "nfe": 2}, "2", "leave one of the two out"),
        ({"schedule": "abc"}, "'abc'", "1024,32,1"),
        ({"schedule": "1024,32,0"}, "0", "every entry is from 1"),
        ({"schedule": "0,1"}, "0,1", "try 1024,32,1"),
        ({"schedule": [1024, -1, 1]}, "1024,-1,1", "try 1024,32,1"),
        ({"nfe": 0}, "0", "greater than or equal to 1"),
        ({"nfe": -4}, "-4", "greater than or equal to 1"),
        ({"nfe": 3}, "3", "try 4"),
        ({"nfe": 10**15}, str(10**15), "less than or equal to"),
        ({"nfe": "many"}, "'many'", "integer"),
        ({"budget": "lots"}, "'lots'", "try 512K"),
        ({"budget": 0}, "0", "give at least"),
        ({"budget": 7}, "7", "give at least"),
        ({"budget": -1}, "-1", "greater than or equal to 0"),
        ({"budget": "999999999M"}, str(999999999 << 20), "less than or equal to"),
        ({"budget": 2.5}, "2.5", "integer"),
        ({"batch": 0}, "0", "greater than or equal to 1"),
        ({"lr": 0}, "0", "greater than 0"),
        ({"lr": 2}, "2", "less than or equal to 1"),
        ({"lr": math.nan}, "nan", "finite"),
        ({"lr": math.inf}, "inf", "finite"),
        ({"lr": "fast"}, "'fast'", "number"),
        ({"clip_norm": 0}, "0", "greater than 0"),
        ({"mu_s": 1}, "1", "less than 1"),
        ({"mu_i": -0.1}, "-0.1", "greater than or equal to 0"),
        ({"ema_residual": 0}, "0", "greater than 0"),
        ({"seed": -1}, "-1", "greater than or equal to 0"),
        ({"sampling_seeds": "0,1,0"}, "(0, 1, 0)", "try 0-2"),
        ({"sampling_seeds": "0-4,2"}, "(0, 1, 2, 3, 4, 2)", "try 0-2"),
        ({"sampling_seeds": []}, "()", "at least one seed"),
        ({"samples": 1}, "1", "greater than or equal to 2"),
        ({"chunk": 0}, "0", "greater than or equal to 1"),
        ({"method": "ddim", "nfe": 3}, "3", "try 4"),
        ({"method": "ddim", "budget": "1K"}, "budget '1K'", "trains nothing; leave it out"),
        ({"method": "ddim", "schedule": "1024,1"}, "'1024,1'", "trains nothing; leave it out"),
        ({"method": "ddim", "seed": 5}, "seed 5", "trains nothing; leave it out"),
        ({"method": "btd", "mu_s": 0.9}, "mu_s 0.9", "no self-teacher; leave it out"),
        ({"seed": True}, "seed true", "not a truth value"),
        ({"grid_steps": 1000}, "1000,32,1", "try 1000,"),
        ({"grid_steps": 16, "nfe": 32}, "nfe 32", "try 8"),
        ({"grid_steps": 1}, "grid_steps 1", "leave grid_steps out"),
        ({"schedule": "32,1", "grid_steps": 16}, "32,1", "grid_steps"),
        ({"teacher": "exact"}, "'exact'", "leave --teacher out"),
        ({"nfe": 2048}, "nfe 2048", "try 512"),
        ({"method": "btd", "nfe": 3}, "nfe 3", "try 4"),
        ({"method": "ddim", "clip_target": False}, "'clip_target'", "did you mean 'clip_sample'"),
    ],
    ids=lambda value: ",".join(f"{k}={v}"[:30] for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_bad_setting_is_one_line_with_value_and_remedy(settings, value, remedy):
    message = refusal({"method": "tract", "dataset": "digits"} | settings)
    assert "\n" not in message
    assert value in message
    assert remedy in message
    named = {name for name in settings if name in RunConfig.model_fields} - {"method", "dataset", "nfe", "options"}
    assert all(name in message for name in named)


@pytest.mark.parametrize("schedule", [32.0, 0, 2.5, {"first": 1024}, [1024, "x"], [1024, 32.5], True])
def test_a_schedule_of_the_wrong_kind_is_never_passed_over(schedule):
    assert "\n" not in refusal({"method": "tract", "dataset": "digits", "schedule": schedule})


@pytest.mark.parametrize("schedule", ["1000000000000,1", "999999999989,7,1", (1 << 40, 3)])
def test_an_absurd_schedule_is_answered_at_once(schedule):
    with seconds(3), suppress(ConfigError):
        config(schedule=schedule)


@pytest.mark.parametrize(
    "key", ["method", "dataset", "tier", "process", "lr_schedule", "budget", "schedule", "unknown\nkey"]
)
def test_a_hostile_value_is_still_one_line(key):
    message = refusal({"method": "tract", "dataset": "digits", key: "evil\nsecond line\r\x1b[31m"})
    assert message.isprintable()


@hypothesis.settings(deadline=None)
@given(st.sampled_from(sorted(RunConfig.model_fields)), st.one_of(st.text(), st.integers(), st.floats(), st.booleans()))
def test_any_value_of_any_setting_is_accepted_or_refused_in_one_line(key, value):
    with seconds(10):
        message = error_of({"method": "tract", "dataset": "digits", key: value})
    assert message is None or "\n" not in message.replace(str(value), "")
