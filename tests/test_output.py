"""What the command line writes, whatever it is connected to and whatever the surroundings lack."""

import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
from report_data import fill

from tractbench.claims.loading import load_tables
from tractbench.cli import main
from tractbench.cli.output import console, to_json
from tractbench.errors import StoreError, one_line
from tractbench.io.cache import cache_dir
from tractbench.io.files import check_writable, write_atomic
from tractbench.results.store import Store

VERBS = [
    ("report", "--format", "markdown"),
    ("report", "--format", "csv"),
    ("list", "runs"),
    ("teacher", "list"),
    ("teacher", "info", "google-cifar10"),
    ("verify", "--tier", "small"),
    ("explain", "digits/ddim/1"),
    ("store", "check"),
    ("doctor",),
    ("run", "--method", "ddmi", "--dataset", "digits"),
]


@pytest.fixture
def some_runs(tmp_path):
    fill(Store(tmp_path / "runs", create=True), load_tables(None)["digits"], {"ddim/1": [[16.0, 16.5]]})


@pytest.mark.parametrize(
    ("verb", "encoding"), [(verb, "ascii") for verb in VERBS] + [(verb, "cp1252") for verb in VERBS[:3]]
)
def test_every_verb_works_in_every_encoding(monkeypatch, some_runs, verb, encoding):
    for name, value in {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "40"}.items():
        monkeypatch.setenv(name, value)
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["tractbench", *verb])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code in (0, 1, 2)
    for stream in streams.values():
        stream.flush()
    shown = b"".join(stream.buffer.getvalue() for stream in streams.values())
    assert shown.strip()
    assert b"Traceback" not in shown
    assert b"\x1b[" not in shown
    if "csv" in verb:
        shown.decode("utf-8")


def test_what_an_encoding_lacks_is_written_in_plain_letters(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr("tractbench.cli.app", lambda **_: print("1 ± 2 → é 人"))
    with pytest.raises(SystemExit):
        main()
    assert out.buffer.getvalue() == b"1 +/- 2 -> e ?\n"


@pytest.mark.parametrize(
    ("variables", "colours"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "0"}, False), ({"FORCE_COLOR": ""}, False),
     ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)  # fmt: skip
@pytest.mark.parametrize("stderr", [False, True])
def test_escapes_off_a_terminal_are_colours_of_standard_output_that_are_asked_for(
    monkeypatch, variables, colours, stderr
):
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr" if stderr else "stdout", shown)
    console(stderr).print("word", style="bold red")
    with console(stderr=True).status("working"):
        console(stderr=True).print("word")
    assert ("\x1b[" in shown.getvalue()) == (colours and not stderr)


def test_json_has_no_infinities():
    text = to_json({"a": [float("inf"), float("nan"), 1.5], "b": ({"c": float("-inf")}, "é")})
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [None, None, 1.5], "b": [{"c": None}, "é"]}
    assert text.isascii()


def test_errors_hold_no_commands_to_the_terminal():
    assert one_line("a \x1b[1mbold\x1b[0m\n  word\x07 é") == "a bold word? é"


@pytest.mark.parametrize(
    ("command", "code"), [("| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", (0, 1)), (">/dev/full", (1,))]
)
def test_output_that_nobody_takes_is_no_traceback(command, code):
    done = subprocess.run(["bash", "-c", f"'{sys.executable}' -m tractbench list methods --verbose {command}"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode in code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(done.stderr.splitlines()) == (code == (1,))


def test_homes_are_found_or_asked_for(monkeypatch, tmp_path, tractbench):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("TRACTBENCH_CACHE", "~/kept")
    assert cache_dir() == tmp_path / "me" / "kept"
    monkeypatch.setenv("TRACTBENCH_HOME", "~/results")
    assert str(tmp_path / "me" / "results") in tractbench("list", "runs").err
    monkeypatch.delenv("TRACTBENCH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what Python does without HOME and passwd entry
    done = tractbench("teacher", "list")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "TRACTBENCH_CACHE" in done.err


# files


def test_a_name_that_no_file_can_have_is_one_line(tractbench):
    for verb in (("teacher", "import", "--dataset", "digits"), ("evaluate", "--dataset", "digits"), ("export",)):
        done = tractbench(*verb, "x" * 5000)
        assert (done.code, done.err.count("\n"), len(done.err) < 200) == (2, 1, True), done.err


def test_links_and_devices_are_written_through(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    for text in ("one", "two"):
        write_atomic(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    write_atomic(link, lambda temporary: temporary.write_text("three") and None)
    assert target.read_text() == "three"
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_atomic(tmp_path / "pipe", "through")
    reader.join(10)
    assert read == ["through"]
    out, into = os.pipe()  # as a shell's >(...), a link to what has no name
    check_writable(Path(f"/dev/fd/{into}"))
    write_atomic(Path(f"/dev/fd/{into}"), "through")
    assert os.read(out, 100) == b"through"
    os.close(out)
    os.close(into)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write_atomic(Path(os.devnull), "x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link", "pipe"}


def test_places_that_cannot_be_written_are_found_before(tmp_path):
    check_writable(tmp_path / "new" / "folder" / "x.json")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "x.json"):
        with pytest.raises(StoreError, match="cannot write"):
            check_writable(path)


def test_a_place_for_scores_is_tried_before_scoring(tractbench, tmp_path):
    done = tractbench("evaluate", "missing", "--dataset", "digits", "--out", tmp_path)
    assert (done.code, "it is a folder" in done.err) == (2, True)


def test_scores_are_printed_whatever_happens_to_their_file(tractbench, tmp_path, monkeypatch):
    import numpy as np

    images = np.random.default_rng(0).integers(0, 17, (16, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images)

    def full(path, content):
        raise StoreError("cannot write it: No space left on device; make room")

    with monkeypatch.context() as patch:
        patch.setattr("tractbench.io.files.write_atomic", full)
        done = tractbench("evaluate", tmp_path / "x.npz", "--dataset", "digits", "--samples", "16",
                          "--allow-deviation", "--quiet", "--out", tmp_path / "out.json")  # fmt: skip
    assert (done.code, "No space left" in done.err) == (2, True), done.err
    assert done.json["evaluations"][0]["scores"]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_termination_leaves_nothing_half_written(monkeypatch, tmp_path, capfd, name, code):
    app = typer.Typer()

    @app.command()
    def verb():
        write_atomic(tmp_path / "large", lambda temporary: os.kill(os.getpid(), getattr(signal, name)))

    monkeypatch.setattr("tractbench.cli.app", app)  # typer itself is in between, which takes interrupts for its own
    monkeypatch.setattr(sys, "argv", ["tractbench"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
    with pytest.raises(SystemExit) as stop:
        main()
    signal.signal(signal.SIGINT, before)
    assert stop.value.code == code
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert capfd.readouterr().err == "tractbench: stopped; what was finished is kept, nothing is left half-written\n"
