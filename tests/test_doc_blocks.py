"""Every block of the documents runs as it stands, or says why not; every command line in them is one of today's."""

import ast
import json
import shlex
import tomllib

import pytest
from command_lines import arguments, in_prose, in_shell, parse, settings, simple_commands
from doc_blocks import LANGUAGES, PAGES, READERS, ROOT, TINY, TINY_VP, blocks, prose

IDS = [str(page.relative_to(ROOT)) for page in PAGES]
RUN = ("run", "plan", "profile")


def values(verb, params):
    """Look up the values that a verb looks up itself; raises a TractbenchError where it would."""
    from tractbench.claims.loading import find_table, load_tables
    from tractbench.cli.list import LISTINGS
    from tractbench.cli.report import FORMATS
    from tractbench.config.resolve import resolve
    from tractbench.errors import choose
    from tractbench.registry import load_dataset
    from tractbench.teachers.published import published_teachers

    if verb[-1] in RUN and params["config"] is None and params["method"] is not None:
        resolve(settings(params))
    if verb == ("list",):
        choose(params["what"], "listing", LISTINGS)
    if verb == ("report",):
        choose(params["output"], "format", FORMATS)
    if verb in {("report",), ("suite",), ("verify",)} and not params["tables"]:
        named = params.get("table") or ()
        for name in [named] if isinstance(named, str) else named:
            find_table(load_tables(), name)
    if verb[0] == "data" and params.get("name"):
        load_dataset(params["name"])
    if verb == ("teacher", "download"):
        assert params["name"] in published_teachers()
    if verb == ("evaluate",) and params["dataset"]:
        load_dataset(params["dataset"])


def is_elsewhere(given):
    """Whether a command names a component that is not installed: a file's, the examples' or the reader's own."""
    return "--plugin" in given or any(
        word.replace("-", "_") in {"my_method", "iris", "spectrum", "meanflow"} for word in given
    )


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_line_is_one_that_exists(page):
    for given in in_prose(prose(page)):
        try:
            parse(given)
        except Exception as error:
            if type(error).__name__ == "MissingParameter":  # a verb may be spoken of without all that it needs
                continue
            pytest.fail(f"{page.name}: `tractbench {shlex.join(given)}`: {error}")
    for block in blocks(page):
        for given in in_shell(block.text) if block.language == "sh" else ():
            try:
                verb, params = parse(given)
                if params and "..." not in given and not is_elsewhere(given):
                    values(verb, params)
            except Exception as error:
                pytest.fail(f"{block}: tractbench {shlex.join(given)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_is_of_its_language(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: {block.language}"
        assert block.mark != "not run" or block.said, f"{block}: it does not say why it is not run"
        assert block.language != "sh" or block.mark != "file", str(block)
        read = {"python": ast.parse, "toml": tomllib.loads, "json": json.loads}.get(block.language)
        if read:
            read(block.text)


@pytest.fixture
def shipped(measured, monkeypatch):
    """What ships is shown, as to any reader."""
    from importlib.resources import files

    monkeypatch.setattr("tractbench.results.measured.MEASURED", files("tractbench.tables.measured"))


@pytest.fixture
def _no_plugins_after():
    """A page's --plugin is not the next test's."""
    yield
    from tractbench import plugins

    plugins.use_files(())
    plugins.forget()


def type_in(tractbench, block):
    """Type a block of the shell's: commands of tractbench alone, one after the other."""
    for words in simple_commands(block.text):
        if not words or words == ["&&"]:
            continue
        given = arguments(words)
        assert given is not None, f"{block}: only tractbench can be run here, not {words[0]!r}; say why it is not run"
        if block.mark == "tiny" and given[0] == "run":
            given = [*given, *TINY, *(() if "ve" in given else TINY_VP)]
        done = tractbench(*given)
        assert done.code == 0, f"{block}: tractbench {shlex.join(given)}: exit status {done.code}\n{done.err}"


RUNNABLE = [page for page in PAGES if any(one.language and one.mark != "not run" for one in blocks(page))]


@pytest.mark.parametrize("page", RUNNABLE, ids=[str(page.relative_to(ROOT)) for page in RUNNABLE])
@pytest.mark.usefixtures("_no_plugins_after")
def test_the_blocks_of_a_page_run_one_after_the_other(page, tractbench, tmp_path, one_thread, shipped):
    for block in blocks(page):
        if block.mark == "file":
            name, _, kind = block.said.partition(", ")
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            READERS[kind](path)
        elif block.mark == "not run":
            continue
        elif block.language == "sh":
            type_in(tractbench, block)
        elif block.language == "python":
            exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})
