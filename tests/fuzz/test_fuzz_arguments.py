"""Whatever is typed after a verb ends in a documented exit status and at most one line of complaint."""

import contextlib
import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzzing import examples, no_hang
from hypothesis import given
from hypothesis import strategies as st

from tractbench.cli import main
from tractbench.errors import DownloadError, RunFailedError

VERBS = {
    "run": ["--method", "--dataset", "--nfe", "--tier", "--schedule", "--budget", "--set", "--config", "--seed", "--lr",
            "--process", "--teacher", "--runs", "--json", "--quiet", "--batch", "--checkpoint-every", "--mu-s"],
    "plan": ["--method", "--dataset", "--nfe", "--set", "--json", "--runs", "--gpu"],
    "report": ["--format", "--tier", "--dataset", "--runs", "--tables"],
    "verify": ["--table", "--tier", "--strict", "--json", "--runs", "--tables"],
    "explain": ["--json", "--runs", "--tables"],
    "list": ["--verbose", "--json", "--runs"],
    "evaluate": ["--dataset", "--protocol", "--samples", "--metrics", "--weights", "--statistics", "--out", "--json"],
    "store check": ["--runs", "--repair", "--json"],
    "store merge": ["--into", "--json"],
    "data info": ["--json"],
    "data prepare": ["--download", "--url", "--quiet", "--json"],
    "data verify": ["--json"],
    "teacher info": ["--json"],
    "teacher import": ["--card", "--name", "--dataset", "--key", "--json"],
    "teacher download": ["--url", "--keep", "--quiet", "--json"],
}  # fmt: skip
WORDS = [
    *("", "-", "--", "0", "-1", "1", "2", "nan", "1e999", "99999999999999999999", "32M", "1e-3", "true", "[1", "json"),
    *(
        "digits",
        "digit",
        "cifar10",
        "mixture2d",
        "gaussian:3",
        "gaussian:0",
        "imagenet64:npz",
        "runs",
        "methods",
        "all",
    ),
    *(
        "tract",
        "btd",
        "ddim",
        "tract_edm",
        "ve",
        "vp",
        "digits-vp",
        "exact",
        "google-cifar10",
        "smoke",
        "small",
        "paper",
    ),
    *("../x", "nowhere", ".", "/dev/null", "é", "\u202e", "=cmd|' /C calc'!A0", "a|b`c", "x" * 300, "\x1b[31m"),
    *("ect", "scm", "cd", "mscd", "levels=1,0.5", "levels=nan", "stages=99", "q=1e300", "noise_mean=-1e9", "c=inf"),
    *("1024,32,1", "1,1024", "lr=nan", "lr_schedule=linear", "loss_weight", "seed=true", "tract,edm", "fid,fid", "csv"),
]
BASE = {"run": ["--method=tract", "--dataset=digits"], "plan": ["--method=btd", "--dataset=digits"],
        "list": ["runs"], "explain": ["digits/ddim/1"], "data info": ["cifar10"], "data verify": ["cifar10"],
        "data prepare": ["cifar10"], "teacher info": ["digits-vp"], "teacher download": ["google-cifar10"]}  # fmt: skip
"""What makes sense, so that what follows is more often looked at."""

text = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=5)
words = st.one_of(st.sampled_from(WORDS), text)
lines = st.sampled_from(sorted(VERBS)).flatmap(
    lambda verb: st.tuples(
        st.just(verb),
        st.booleans(),
        st.lists(st.tuples(st.sampled_from([*VERBS[verb], ""]), words), max_size=3),
    )
)


@pytest.fixture(autouse=True)
def _nothing_long(monkeypatch):
    """What would train, score real images or use the network fails instead, as it may."""

    def failing(error):
        def fail(*_, **__):
            raise error

        return fail

    monkeypatch.setattr("tractbench.pipeline.run.run", failing(RunFailedError("it was not run")))
    monkeypatch.setattr("tractbench.io.download.download", failing(DownloadError("no network")))


@examples(60)
@given(line=lines)
@pytest.mark.filterwarnings("ignore")
def test_arguments(line):
    verb, sensible, pairs = line
    typed = [word for pair in pairs for word in pair if word]
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["tractbench", *verb.split(), *(BASE.get(verb, []) if sensible else []), *typed]
    code, left = None, []
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with TemporaryDirectory() as folder, contextlib.chdir(folder), no_hang(), streams[0], streams[1]:
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        finally:
            left = [path.name for path in Path(folder).rglob("*")]
            sys.argv = before
    said = err.getvalue()
    assert code in (0, 1, 2, 3), (line, said)
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert code != 2 or "tractbench: " in said or "Usage" in out.getvalue() + said
    assert not [name for name in left if name.endswith((".tmp", ".part"))]
