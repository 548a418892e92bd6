"""Time and memory of a report over many runs, beside importing its libraries and parsing the same table of records.

    python tests/benchmarks/report.py [--records 10000]

Half of the records are training seeds of the cells of all tables, half are settings of their own, one row each.
"""

import argparse
import subprocess
import sys
import tempfile
from itertools import count, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from report_data import record

from tractbench.claims.loading import load_tables
from tractbench.config.resolve import resolve
from tractbench.results.index import INDEX
from tractbench.results.store import RECORD, Store

FLOOR = """
import json, sys
import jinja2, matplotlib.figure, pandas, pydantic, scipy.stats, typer
for line in open(sys.argv[1]):
    json.loads(line)
"""

WATCH = """
import resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code not in (0, 1))  # 1: contradicted
"""
"""A process of its own, since a child's peak starts at what its parent holds."""

VERBS = {
    "report, HTML": ("report", "--out", "report.html"),
    "report of all tables, HTML": ("report", "--all", "--out", "all.html"),
    "report, LaTeX": ("report", "--format", "latex", "--out", "latex"),
    "report, CSV": ("report", "--format", "csv", "--out", "report.csv"),
    "verify": ("verify", "--json"),
    "explain": ("explain", "digits/tract/1"),
}


def runs(number):
    """Records of the tables' cells, then of settings that no table has; scores differ from run to run."""
    cells = [cell for table in load_tables().values() for cell in table.cells.values()]
    trained = [cell for cell in cells if resolve(cell.settings)[0].schedule]
    numbers = count()
    for seed, cell in islice(((seed, cell) for seed in count() for cell in trained), number // 2):
        index = next(numbers)
        yield record(cell, index, seed, [2 + (index * s) % 7 / 100 for s in (3, 5, 6)])
    cell = load_tables()["digits"].cells["tract/1"]
    for index in islice(numbers, number - number // 2):
        config = resolve({**cell.settings, "mu_s": index / (2 * number)})[0]
        yield record(cell, index, 0, [3.0, 3.1, 3.2], config=config)


def measured(command, folder):
    """Return seconds and peak memory in bytes of a whole process."""
    watched = [sys.executable, "-c", WATCH, *command]
    out = subprocess.run(watched, cwd=folder, check=True, capture_output=True, text=True).stdout
    seconds, peak = out.split()
    return float(seconds), float(peak)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=10_000)
    number = parser.parse_args().records
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "runs", create=True)
        store.write(record(load_tables()["digits"].cells["tract/1"], number, 0, [1.0, 1.1]))
        for one in runs(number):
            path = store.root / one.folder / RECORD
            path.parent.mkdir()
            path.write_text(one.model_dump_json(indent=2))  # write() waits for the disk each time
        store.records()  # makes the index
        size = (store.root / INDEX).stat().st_size
        floor, memory = measured([sys.executable, "-c", FLOOR, str(store.root / INDEX)], folder)
        print(
            f"{number:,} records, {size / 1e6:.0f} MB; libraries and JSON alone: {floor:.1f} s, {memory / 1e6:.0f} MB"
        )
        for name, words in VERBS.items():
            seconds, peak = measured([sys.executable, "-m", "tractbench", *words], folder)
            print(f"{name:27} {seconds:5.1f} s ({seconds / floor:4.1f} of the floor), {peak / 1e6:4.0f} MB", flush=True)
        print(f"report.html: {(Path(folder) / 'report.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
