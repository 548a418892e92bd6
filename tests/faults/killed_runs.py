"""Kills real runs at chosen file operations and starts them again; a helper process of ``test_faults.py``.

    python killed_runs.py FOLDER POINTS... -- run --method tract ...

A point is the number of a file operation in the results folder, counted from 1 in the order in which the run makes them
(opening for writing, making folders, renaming, removing), or a time such as ``0.7s``. Each is tried in a folder of its
own, by a child of this process, which has imported everything already: killed there by SIGKILL, then run again to the
end. 0 is never reached. A line of JSON a point says how both ended, how many operations the last one made, and what is
left.
"""

import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from tractbench.cli import main

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "os.symlink")


def kill_at(number, folder, count_file):
    """Count this process's file operations below a folder, and end it just before one of them."""
    done = 0

    def hook(event, arguments):
        nonlocal done
        if event != "open" and event not in CHANGES:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if not isinstance(arguments[0], (str, os.PathLike)) or not str(Path(arguments[0]).absolute()).startswith(
            folder
        ):
            return
        done += 1
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(count_file, f"{done:08d}".encode())
        os.lseek(count_file, 0, os.SEEK_SET)

    sys.addaudithook(hook)


def child(folder, words, number=0, seconds=None):
    """Run the command line in a child; return its exit status, negative for a signal, and its file operations."""
    count = os.open(folder / "count", os.O_RDWR | os.O_CREAT)
    pid = os.fork()
    if not pid:
        os.chdir(folder)
        sys.stdout = sys.stderr = open(folder / "said", "a")  # noqa: PTH123, SIM115
        sys.argv = ["tractbench", *words]
        if seconds is not None:
            threading.Thread(target=lambda: (time.sleep(seconds), os.kill(os.getpid(), signal.SIGKILL))).start()
        kill_at(number, str(folder / "runs"), count)
        code = 70
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    operations = int(os.read(count, 8) or 0)
    os.close(count)
    return os.waitstatus_to_exitcode(status), operations


def left(folder):
    """What a store holds: the numbers of its records, the students' hashes, the names and pictures' contents."""
    records = [json.loads(path.read_text()) for path in sorted((folder / "runs").glob("cells/*/record.json"))]
    files = sorted(path for path in (folder / "runs").rglob("*") if path.is_file())
    return {
        "status": [record["status"] for record in records],
        "metrics": [record["metrics"] for record in records],
        "student": [record["hashes"].get("student") for record in records],
        "files": [path.relative_to(folder).as_posix() for path in files],
        "pictures": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.suffix == ".png"],
    }


def tried(folder, point, words):
    folder.mkdir()
    timed = point.endswith("s")
    first, _ = child(folder, words, 0 if timed else int(point), float(point[:-1]) if timed else None)
    again, operations = (first, 0) if first == 0 else child(folder, words)
    if first == 0:
        operations = int((folder / "count").read_bytes())
    return {"point": point, "first": first, "again": again, "operations": operations, **left(folder),
            "said": (folder / "said").read_text()}  # fmt: skip


def warm_up(folder):
    """Sample, score and draw once, so that children inherit what that imports."""
    folder.mkdir()
    here = Path.cwd()
    os.chdir(folder)
    sys.argv = ["tractbench", *WARM]
    with contextlib.suppress(SystemExit):
        main()
    os.chdir(here)


WARM = ("run", "--method", "ddim", "--dataset", "digits", "--tier", "smoke", "--nfe", "1", "--set", "grid_steps=2",
        "--samples", "64", "--sampling-seeds", "0", "--quiet")  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    before = sys.argv
    warm_up(Path(sys.argv[1]) / "warm")
    sys.argv = before
    divider = sys.argv.index("--")
    for index, point in enumerate(sys.argv[2:divider]):
        print(json.dumps(tried(Path(sys.argv[1]) / str(index), point, sys.argv[divider + 1 :])), flush=True)
