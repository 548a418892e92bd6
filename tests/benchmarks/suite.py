"""What a suite itself costs: 1,000 runs that are all done, and the throughput of two jobs beside that of one.

python tests/benchmarks/suite.py [--cells 1000] [--runs 12] [--tier small] [--skip-throughput]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from suite_data import record

from tractbench.claims.loading import load_tables
from tractbench.pipeline.suite_cells import Choice, wanted_cells
from tractbench.results.store import RECORD, Store


def seconds(folder, *words):
    """Return the seconds of a whole command, which has to end well."""
    started = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "TRACTBENCH_HOME"}
    subprocess.run([sys.executable, "-m", "tractbench", "suite", *words, "-q"], cwd=folder, check=True,
                   env=environment | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)  # fmt: skip
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=12, help="runs that one and two jobs make")
    parser.add_argument("--tier", default="small", help="of these runs")
    parser.add_argument("--skip-throughput", action="store_true")
    given = parser.parse_args()
    table = load_tables()["digits"]
    with tempfile.TemporaryDirectory() as folder:
        seeds = tuple(range(1 + given.cells // 34))
        cells = wanted_cells(Choice((table,), seeds=seeds))[0]
        store = Store(Path(folder) / "runs", create=True)
        store.make()
        for one in cells:
            path = store.cell_folder(one.cell.config, one.id) / RECORD
            path.parent.mkdir(parents=True)
            path.write_text(record(one.cell, store).model_dump_json(indent=2))  # write() waits for the disk each time
        took = seconds(folder, "--table", "digits", "--seeds", f"0-{seeds[-1]}")
        print(f"{len(cells):,} runs that are all done: {took:.1f} s, start included", flush=True)
        if given.skip_throughput:
            return
        words = ("--table", "digits", "--tier", given.tier, "--only", "cell=tract/1", "--seeds", f"0-{given.runs - 1}")
        one, two = (seconds(folder, *words, "--jobs", str(jobs), "--runs", f"jobs{jobs}") for jobs in (1, 2))
        print(f"{given.runs} runs: {one:.0f} s with 1 job, {two:.0f} s with 2, {one / two:.2f} times the throughput")


if __name__ == "__main__":
    main()
