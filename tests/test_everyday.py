"""The version, completion, opening a report, and a help in which nothing is lost."""

import os
import subprocess
import sys
import webbrowser
from importlib.metadata import version
from pathlib import Path

import pytest
from command_lines import root

REPORT = "<!doctype html>\n<title>tractbench report</title>\n"


def verbs(command, words=()):
    """Every command of the program with its words, groups too."""
    yield words, command
    for name, verb in getattr(command, "commands", {}).items():
        yield from verbs(verb, (*words, name))


def test_the_version(tractbench):
    result = tractbench("--version")
    assert (result.code, result.out) == (0, f"tractbench {version('tractbench')}\n")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("tractbench run --method tr", ["tract", "tract_edm"]),
        ("tractbench plan --dataset cif", ["cifar10"]),
        ("tractbench report --table imagenet64", ["imagenet64", "imagenet64-field"]),
        ("tractbench list da", ["datasets"]),
        ("tractbench ope", ["open"]),
    ],
)
def test_completion(typed, expected):
    """Asked as bash asks."""
    environment = {**os.environ, "_TRACTBENCH_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(typed.split()) - 1)
    code = "import sys; sys.argv = ['tractbench']; from tractbench.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == expected, done.stderr


def test_completion_is_on(tractbench):
    shown = tractbench("--help").out
    assert "--install-completion" in shown


def test_completion_knows_installed_plugins(site):
    from tractbench.cli.completion import FLAGS

    folder = site / "other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[tractbench.methods]\ntrolley = other:Trolley\n")
    assert FLAGS["method"]("tr") == ["tract", "tract_edm", "trolley"]


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was asked to open."""
    found = []
    monkeypatch.setattr(webbrowser, "open", lambda address: found.append(address) or True)
    return found


def test_open_takes_the_newest_report_and_no_other_page(tractbench, opened):
    Path("runs").mkdir()
    for age, (name, text) in enumerate(
        [("runs/new.html", REPORT), ("old.html", REPORT), ("other.html", "<title>else</title>")]
    ):
        Path(name).write_text(text)
        os.utime(name, (1e9 - age, 1e9 - age))
    os.utime("other.html", (2e9, 2e9))
    result = tractbench("open")
    assert (result.code, result.out) == (0, f"{Path('runs/new.html')}\n")
    assert opened == [Path("runs/new.html").absolute().as_uri()]
    tractbench("open", "old.html")
    assert opened[1] == Path("old.html").absolute().as_uri()


def test_open_knows_what_report_writes(tractbench, opened, smoke):
    assert tractbench("report", "--out", "mine.html").code == 0
    assert tractbench("open").out == "mine.html\n"


@pytest.mark.parametrize(
    "fails", [lambda address: False, lambda address: (_ for _ in ()).throw(webbrowser.Error("no"))]
)
def test_open_says_the_path_where_there_is_no_browser(tractbench, monkeypatch, fails):
    monkeypatch.setattr(webbrowser, "open", fails)
    Path("report.html").write_text(REPORT)
    result = tractbench("open")
    assert (result.code, result.out) == (0, "report.html\n")
    assert "no browser" in result.err


@pytest.mark.parametrize(("given", "remedy"), [((), "tractbench report"), (("gone.html",), "--out gone.html")])
def test_open_without_a_report(tractbench, opened, given, remedy):
    result = tractbench("open", *given)
    assert result.code == 2
    assert remedy in result.err
    assert opened == []


def test_help_shows_every_word_of_it():
    """rich takes words in square brackets for styles and leaves them out: show_default is for defaults in words."""
    from rich.text import Text

    for words, command in verbs(root()):
        for text in (command.help, *(getattr(option, "help", None) for option in command.params)):
            assert text is None or Text.from_markup(text).plain == text, f"{' '.join(words)}: {text}"


def test_the_page_of_the_command_line_has_every_verb_and_option():
    pytest.importorskip("mkdocs")
    import importlib.util

    spec = importlib.util.spec_from_file_location("site_hooks", Path(__file__).parents[1] / "scripts" / "site_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.command_line()
    for words, command in verbs(root()):
        if not words:
            continue
        _, found, rest = page.partition(f" `tractbench {' '.join(words)}`\n")
        assert found
        section = rest.split("\n##")[0]
        for option in command.params if not hasattr(command, "commands") else ():
            for name in (*option.opts, *option.secondary_opts):
                if name.startswith("--"):
                    assert name in section, f"{words}: {name}"
    assert hooks._Loaded.of('<script src="https://elsewhere.example/x.js"></script><img src="a.png">') == [
        "https://elsewhere.example/x.js"
    ]
