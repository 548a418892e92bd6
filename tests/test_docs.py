"""What the documents say of methods and their settings is what the code does."""

import re

import pytest
from docs_tables import DOCUMENT, TABLES, methods, region

from tractbench.config.fields import RunConfig

TEXT = DOCUMENT.read_text(encoding="utf-8")
METHODS = {method.name: method for method, _ in methods()}
CODE = re.compile(r"`([^`]+)`")


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_of_the_code(name):
    (found,) = region(name).findall(TEXT)
    assert found[1] == TABLES[name](), "python tests/docs_tables.py"


def rows(text, header):
    """The rows of the table with a header, as lists of cells."""
    lines = text[text.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def default(method, name):
    """The default of an option or a run setting under a method, as documents write it, None where it has none."""
    if name in method.model_fields:
        value = method.model_fields[name].default
    elif name in RunConfig.model_fields:
        value = method.defaults.get(name, RunConfig.model_fields[name].get_default(call_default_factory=True))
    else:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_defaults_with_their_reasons_are_those_of_the_code():
    compared = 0
    for setting, values, said, _ in rows(TEXT, "| setting | values |"):
        for part in said.split(";"):
            found = re.fullmatch(r"(?:((?:`\w+`(?:, )?)+): )?`([^`]+)`(?: at 1)?", part.strip())
            if not found:
                continue
            (name, *among) = CODE.findall(setting)
            named = CODE.findall(found[1]) if found[1] else among
            for method in named or [one for one in METHODS if default(METHODS[one], name) is not None][:1]:
                assert default(METHODS[method], name) == found[2], f"{name} of {method}"
                compared += 1
            assert found[2] in CODE.findall(values), f"{name}: {found[2]} is none of its values"
    assert compared >= 15


@pytest.mark.parametrize("name", ["cd", "mscd", "ect", "scm", "meanflow"])
def test_the_choices_of_the_consistency_family_are_those_of_the_code(name):
    method, section = METHODS[name], TEXT[TEXT.index(f"### `{name}`") :]
    compared = 0
    for choice, _, here in rows(section, "| choice |"):
        values = re.match(r"`?([\w.]+)`?(?: and `?([\w.]+)`?)?", here)
        for option, value in zip(CODE.findall(choice), values.groups() if values else (), strict=False):
            if default(method, option) is not None and value is not None and "=" not in here.split(",")[0]:
                assert float_or_text(default(method, option)) == float_or_text(value), option
                compared += 1
        for option, value in re.findall(r"`(\w+)` = `?([\w.]+)`?", here):
            assert float_or_text(default(method, option)) == float_or_text(value), option
            compared += 1
    assert compared >= 2


def float_or_text(value):
    try:
        return float(value)
    except ValueError:
        return value
