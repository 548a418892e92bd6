"""Seconds to name 1,000 cells and look them up in a store, and to start a run that is already done.

Usage: python tests/benchmarks/identity.py [--cells 1000]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tractbench.config.resolve import resolve
from tractbench.pipeline.cell import identify
from tractbench.results.store import Store


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "runs", create=True)
        methods, steps = ("tract", "btd", "tract_edm"), (1, 2, 4, 8)
        started = time.perf_counter()
        found = 0
        for index in range(cells):
            settings = {"method": methods[index % 3], "dataset": "digits", "nfe": steps[index // 3 % 4]}
            cell = identify(*resolve(settings | {"seed": index // 12}))
            found += store.find(cell.id, cell.config) is not None
        seconds = time.perf_counter() - started
        print(f"{cells} cells named and looked up ({found} found): {seconds:.2f} s")
        words = f"run --method tract --dataset digits --tier smoke --quiet --runs {store.root}".split()
        command = [sys.executable, "-m", "tractbench", *words]
        subprocess.run(command, check=True)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run(command, check=True)
            times.append(time.perf_counter() - started)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        floor = time.perf_counter() - started
        median = sorted(times)[2]
        print(
            f"a run that is already done: {median:.2f} s, {median / floor:.2f} of importing torch alone ({floor:.2f} s)"
        )


if __name__ == "__main__":
    main()
