import os
import subprocess
import threading
import time

import pytest

from tractbench.errors import StoreError
from tractbench.io.sealed import keep_sealed
from tractbench.progress import Progress


class Told(Progress):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def made(files, count, content=b"content"):
    def compute():
        count.append(1)
        for path in files:
            path.write_bytes(content)

    return compute


@pytest.fixture
def files(tmp_path):
    return tmp_path / "cache" / "a.npz", tmp_path / "cache" / "a.features.npy"


def test_files_are_made_once_and_in_silence(files):
    count, told = [], Told()
    for _ in range(3):
        keep_sealed(files, made(files, count), told)
    assert len(count) == 1
    assert not told.messages


def test_the_hashes_are_those_of_sha256sum(files):
    keep_sealed(files, made(files, []), Progress())
    done = subprocess.run(["sha256sum", "-c", "a.sha256"], cwd=files[0].parent, check=False, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.count(b": OK") == 2


def test_an_entry_that_was_never_finished_is_made_again(files):
    count = []

    def interrupted():
        files[0].write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_sealed(files, interrupted, Progress())
    told = Told()
    keep_sealed(files, made(files, count), told)
    assert len(count) == 1
    assert len(told.messages) == 1


def test_two_at_once_make_the_files_once(files):
    count, told, started = [], Told(), threading.Event()

    def slowly():
        started.set()
        while not told.messages:  # until the other one waits
            time.sleep(0.01)
        made(files, count)()

    first = threading.Thread(target=keep_sealed, args=(files, slowly, Progress()))
    first.start()
    started.wait()
    keep_sealed(files, made(files, count), told)
    first.join()
    assert len(count) == 1
    assert told.messages == ["waiting for another process that computes a"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="folders that cannot be written")
def test_a_folder_that_cannot_be_written_is_one_line(files):
    files[0].parent.mkdir(mode=0o500)
    with pytest.raises(StoreError, match="choose a folder you can write to"):
        keep_sealed(files, made(files, []), Progress())


def test_a_file_in_the_place_of_the_folder_is_one_line(files):
    files[0].parent.write_bytes(b"")
    with pytest.raises(StoreError, match="choose a folder you can write to"):
        keep_sealed(files, made(files, []), Progress())
