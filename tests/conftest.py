import json
import sys

import pytest


class Finished:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def tractbench(monkeypatch, capfd):
    """Runs the command line in this process, from the arguments to the exit status."""
    from tractbench.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tractbench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        return Finished(stop.value.code or 0, out, err)

    return run


@pytest.fixture(autouse=True)
def _own_results(monkeypatch, tmp_path):
    """No test sees or leaves results outside its own folder."""
    monkeypatch.delenv("TRACTBENCH_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
