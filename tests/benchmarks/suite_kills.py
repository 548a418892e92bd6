"""A table filled by a suite that is killed on the way, compared with one that never was.

    python tests/benchmarks/suite_kills.py [--table digits] [--tier smoke] [--seeds 0] [--kills 10] [--jobs 2]

By turns SIGKILL goes to the suite alone, to all its jobs and it, and to one job, after which the suite gets Ctrl-C;
then the suite gets Ctrl-C alone, and SIGTERM. Each comes at a random time after a run has begun, so that together they
fall into about the time that the table takes; the same command then goes on. Every score has to be the same to the bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from tractbench.pipeline.suite_progress import read_report
from tractbench.results.store import Store

KILLS = ("suite", "all", "job", "interrupt", "terminate")


def start(given, runs):
    """Start the suite in a session of its own."""
    words = ["--table", given.table, "--tier", given.tier, "--seeds", given.seeds, "--jobs", str(given.jobs)]
    command = [sys.executable, "-m", "tractbench", "suite", *words, "--runs", str(runs), "-q"]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def at_work(runs):
    """Return the processes of this machine that make a run now."""
    reports = [read_report(path) for path in sorted(runs.glob("suite/*/job-*.json"))]
    return [one.pid for one in reports if one.current and not one.finished and Path(f"/proc/{one.pid}").exists()]


def kill(suite, runs, kind):
    """End what is meant, and wait until nothing of it is left."""
    jobs = at_work(runs)
    for pid in {"all": jobs, "job": jobs[:1]}.get(kind, []):
        os.kill(pid, signal.SIGKILL)
    sent = {"job": signal.SIGINT, "interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
    suite.send_signal(sent.get(kind, signal.SIGKILL))
    suite.wait()
    while at_work(runs):
        time.sleep(0.1)


def scores(runs):
    """Return the scores of every finished run by its identity."""
    return {record.identity: record.metrics for record in Store(runs).records() if record.status == "done"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", default="digits")
    parser.add_argument("--tier", default="smoke")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    chance = random.Random(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where this was started in the background
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        began = time.monotonic()
        if start(given, whole).wait():
            sys.exit("the suite that is not killed failed")
        took = time.monotonic() - began
        print(f"never killed: {len(scores(whole))} runs in {took:.0f} s", flush=True)
        survived = 0
        for kind in islice(cycle(KILLS), given.kills):
            suite = start(given, killed)
            while suite.poll() is None and not at_work(killed):
                time.sleep(0.1)
            time.sleep(chance.uniform(0, 2 * took / given.kills))
            if suite.poll() is not None:
                break
            kill(suite, killed, kind)
            survived += 1
            print(f"{kind}: {len(scores(killed))} runs are there", flush=True)
        code = start(given, killed).wait()
        same = scores(killed) == scores(whole)
        print(f"{survived} kills; then exit {code}, {len(scores(killed))} runs, {'equal' if same else 'OTHER'} scores")
        sys.exit(code or not same)


if __name__ == "__main__":
    main()
