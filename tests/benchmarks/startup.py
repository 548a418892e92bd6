"""How long ``tractbench --help`` takes beside a bare two-command typer app, as the median ratio of paired runs.

python tests/benchmarks/startup.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

BARE = """
import typer
app = typer.Typer()
@app.command()
def one(x: int = 1): "One."
@app.command()
def two(y: int = 1): "Two."
app()
"""


def seconds(command: list[str]) -> float:
    """Return the wall time of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    ours, bare = [sys.executable, "-m", "tractbench", "--help"], [sys.executable, "-c", BARE, "--help"]
    seconds(ours), seconds(bare)
    pairs = [(seconds(ours), seconds(bare)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    print(f"tractbench --help: {ratio:.2f} of a bare typer app ({statistics.median(a for a, _ in pairs):.2f} s)")


if __name__ == "__main__":
    main()
