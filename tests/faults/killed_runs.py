"""Kills real runs at chosen file operations and starts them again; what a helper process of ``test_faults.py`` does.

POINTS are ``all``, a number of them, or times such as ``0.7s,2s``. A point is the number of a file operation in the
results folder, counted from 1 in the order in which the run makes them: opening for writing, making folders, renaming,
removing. First the run is made whole. Then each point is tried in a folder of its own by a child of this process; it is
killed there by SIGKILL, then run again to the end. A line of JSON for each says how both ended, how many operations the
last one made, and what is left.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from forked import command_line

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
        if seconds is not None:
            threading.Thread(target=lambda: (time.sleep(seconds), os.kill(os.getpid(), signal.SIGKILL))).start()
        kill_at(number, str(folder / "runs"), count)
        code = 70
        try:
            command_line(*words)
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


def chosen(points, count):
    """The points that are asked for: all, so many from the first operation to the last, or times."""
    if points == "all":
        return [str(number) for number in range(1, count + 1)]
    if points.isdecimal():
        return [str(1 + index * (count - 1) // (int(points) - 1)) for index in range(int(points))]
    return points.split(",")


def kill_and_repeat(base, points, *words):
    """Print what the whole run left, then what each of those that were killed did."""
    base = Path(base)
    whole = tried(base / "0", "0", words)
    print(json.dumps(whole), flush=True)
    for index, point in enumerate(chosen(points, whole["operations"]), 1):
        print(json.dumps(tried(base / str(index), point, words)), flush=True)
