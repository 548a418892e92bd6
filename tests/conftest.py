import functools
import json
import os
import shutil
import signal
import sys

import hypothesis
import pytest

hypothesis.settings.register_profile("long", max_examples=int(os.environ.get("TRACTBENCH_EXAMPLES", "200000")))
"""What ``--hypothesis-profile=long`` runs of each kind in ``tests/fuzz``."""

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: the workers are what the cores are shared among
    os.environ.setdefault("OMP_NUM_THREADS", "1")


for name in ("SIGINT", "SIGHUP"):  # who is started in the background or by nohup inherits that they are ignored
    if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)

FIRST = ("test_parallel", "test_suite_processes", "test_pipeline", "test_faults", "test_compiling", "test_doc_blocks",
         "test_notebook", "test_endings", "test_report_tools", "test_demo")  # fmt: skip
"""Files of tests that take many seconds: begun at the end, one of them would leave the other cores idle."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


class Finished:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(scope="module")
def one_thread():
    """Tensors and networks of a few units spend their time on waking threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def _command():
    """All verbs with their options, which typer makes anew for each command line.

    ``command_lines.root`` is another: verbs of it are read alone, after which they no longer know ``-h``.
    """
    import typer

    from tractbench.cli import app

    return typer.main.get_command(app)


@pytest.fixture
def tractbench(monkeypatch, capfd):
    """Runs the command line in this process, from the arguments to the exit status."""
    from tractbench.cli import main

    command = _command()
    monkeypatch.setattr("typer.main.get_command", lambda app: command)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tractbench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return Finished(stop.value.code or 0, out, err)

    return run


@pytest.fixture
def forked():
    """Starts the command line in a process of its own (``forked.Forked``); what still runs at the end is ended."""
    from forked import Forked, command_line

    started = []

    def start(*words, function=command_line, **how):
        started.append(Forked(function, *words, **how))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests of pages, which are marked ``BROWSER``."""
    from report_data import needs

    needs("chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """A folder with the results of TRACT's smoke run on digits, and what the command printed; made once a worker."""
    from forked import Forked, command_line

    folder = tmp_path_factory.mktemp("smoke")
    options = ("--method", "tract", "--dataset", "digits", "--tier", "smoke", "--nfe", "1")
    options += ("--schedule", "16,4,1", "--json", "--quiet")  # a teacher of few steps: seconds
    environment = {name: value for name, value in os.environ.items() if name != "TRACTBENCH_HOME"}
    done = Forked(command_line, "run", *options, cwd=folder, environment=environment)
    assert done.wait() == 0, done.err
    return folder / "runs", json.loads(done.out)


@pytest.fixture
def smoke(smoke_run, tmp_path):
    """The smoke run in this test's own results folder: what the command printed."""
    runs, printed = smoke_run
    shutil.copytree(runs, tmp_path / "runs")
    return printed


@pytest.fixture(scope="session")
def _session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_results(monkeypatch, tmp_path, _session_cache):
    """No test sees or leaves results outside its own folder, nor a cache outside the session's."""
    for name in ("TRACTBENCH_HOME", "TRACTBENCH_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRACTBENCH_CACHE", str(_session_cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of distributions, found first."""
    from tractbench import plugins

    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    plugins.forget()
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    plugins.use_files(())
    plugins.forget()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on loopback, which takes the place of huggingface.co."""
    from fake_hub import TOKEN, FakeHub
    from huggingface_hub import constants, file_download

    hub = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # HF_ENDPOINT as it was when huggingface_hub was imported
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # before 1.0
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # what waits before it asks again
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    yield hub
    hub.close()


@pytest.fixture(autouse=True)
def measured(monkeypatch, tmp_path):
    """The folder of measured results that ship, for this test an empty one: what it may put there is shown."""
    folder = tmp_path / "measured"
    monkeypatch.setattr("tractbench.results.measured.MEASURED", folder)
    return folder
