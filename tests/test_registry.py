import sys
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

import tractbench.registry as registry
from tractbench.config.resolve import resolve
from tractbench.errors import ConfigError
from tractbench.methods.tract import TRACT
from tractbench.pipeline.cell import identify

PLUGIN = """
from typing import ClassVar
from tractbench.methods.tract import TRACT

class Halfway(TRACT):
    name: ClassVar[str] = "halfway"
    summary: ClassVar[str] = "a method from elsewhere"
    strength: float = 0.5
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "halfway_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "halfway_plugin", raising=False)
    entry = EntryPoint("halfway", "halfway_plugin:Halfway", "tractbench.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == "tractbench.methods" else [])
    return tmp_path / "halfway_plugin.py"


def test_a_method_of_another_distribution_runs_like_a_built_in_one(plugin, tractbench):
    assert "halfway" in {m["name"] for m in tractbench("list", "methods", "--json").json}
    run = ("run", "--method", "halfway", "--dataset", "digits", "--tier", "smoke", "--set", "strength=0.25", "--json")
    assert tractbench(*run).json["status"] == "done"
    assert "did you mean 'halfway'" in tractbench("run", "--method", "halfwey", "--dataset", "digits").err


def test_a_plugins_source_is_part_of_its_students_identity(plugin):
    run = resolve({"method": "halfway", "dataset": "digits"})
    before = identify(*run)
    plugin.write_text(PLUGIN + "# changed\n")
    registry._package_hash.cache_clear()  # as another process would
    after = identify(*run)
    assert after.student != before.student
    assert after.id != before.id


def test_an_entry_point_to_something_else_is_refused(monkeypatch):
    entry = EntryPoint("wrong", "math:pi", "tractbench.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.raises(ConfigError, match=r"wrong = math:pi is not a Method named 'wrong'"):
        registry.load_method("wrong")


def test_names_are_read_with_hyphens_and_capitals():
    assert registry.load_method("TRACT") is TRACT
    assert registry.load_method("tract-edm").name == "tract_edm"


def test_a_method_without_a_target_says_so():
    from tractbench.method import Method

    class Unfinished(Method):
        name: ClassVar[str] = "unfinished"
        summary: ClassVar[str] = ""

    with pytest.raises(ConfigError, match="implement target"):
        Unfinished().target(None, None, 0.0, None)
