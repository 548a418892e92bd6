"""Files that were changed at random end in an answer or in one line of a user's error, never in anything else."""

import io
import json
import pickle
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import msgpack
import numpy as np
import pytest
import torch
from fuzzing import edits, examples, mutated, no_hang
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from store_data import record

from tractbench.claims.loading import load_tables, shipped_tables
from tractbench.config.resolve import read_config_file, resolve
from tractbench.errors import TractbenchError
from tractbench.evaluation.images import open_samples
from tractbench.io.tensors import load_tensors, save_tensors
from tractbench.results.store import Store
from tractbench.teachers.card import SHIPPED, TeacherCard, read_card
from tractbench.teachers.readers.foreign import read_foreign

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(3)}


def answers(read):
    """Call a reader; it may refuse, in one line."""
    with no_hang():
        message = ""
        try:
            read()
        except TractbenchError as error:
            message = str(error)
        assert len(message.splitlines()) <= 1, message


def written(function):
    buffer = io.BytesIO()
    function(buffer)
    return buffer.getvalue()


def snapshot():
    """A pickle of the shape of EDM's, whose classes need not exist to be named."""
    name = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"
    state = {"type": "class", "version": 6, "class_name": "EDMPrecond",
             "state": {"_init_args": (), "_init_kwargs": {"img_resolution": 8, "img_channels": 3},
                       "_parameters": {}, "_buffers": {}, "_modules": {"model": None}}}  # fmt: skip
    inner = pickle.dumps(state, protocol=2)[2:-1]
    return b"\x80\x02}X\x03\x00\x00\x00ema" + name + inner + b"\x85Rs."


def flax():
    array = msgpack.ExtType(1, msgpack.packb([[2, 2], "float32", b"\0" * 16]))
    layers = ("conv_in", "conv_out", "dense0", "down_0.block_0")
    return msgpack.packb({"ema_params": {name: {"kernel": array} for name in layers}, "step": 1})


CHECKPOINTS = {
    "zip": written(lambda file: torch.save({"model": STATE, "ema": STATE}, file)),
    "legacy": written(lambda file: torch.save(STATE, file, _use_new_zipfile_serialization=False)),
    "safetensors": save(STATE),
    "edm": snapshot(),
    "protocol0": pickle.dumps({"ema": [1.5, "x", (1, 2)]}, protocol=0),
    "flax": flax(),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
@examples(120)
@given(changes=edits)
@pytest.mark.filterwarnings("ignore")
def test_checkpoints(kind, changes):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(mutated(CHECKPOINTS[kind], changes))
        answers(lambda: read_foreign(path))
        assert [one.name for one in Path(folder).iterdir()] == ["x"]


@examples(200)
@given(
    content=st.binary(max_size=64), start=st.sampled_from([b"\x80\x02", b"(dp", b"}q\x00", b"\x81\xaaema_params", b""])
)
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_nothing_but_noise(content, start):
    with TemporaryDirectory() as folder:
        (Path(folder) / "x").write_bytes(start + content)
        answers(lambda: read_foreign(Path(folder) / "x"))


def checkpoint():
    with TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "x", STATE, {"student": "s", "step": 1})
        return (Path(folder) / "x").read_bytes()


OURS = checkpoint()


@examples(150)
@given(changes=edits)
def test_our_own_tensors_are_read_as_they_were_written_or_not_at_all(changes):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(mutated(OURS, changes))
        try:
            tensors, header = load_tensors(path, "delete it")
        except TractbenchError:
            return
        assert header == {"student": "s", "step": 1}
        assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
            name: tensor.tolist() for name, tensor in STATE.items()
        }


CARD = (SHIPPED / "digits-ve.toml").read_bytes()
CONFIG = b'method = "tract"\ndataset = "digits"\nnfe = 2\nschedule = [1024, 32, 2]\nbudget = "64K"\nmu_s = 0.5\n'
TABLE = (shipped_tables() / "digits.toml").read_bytes()


@examples(150)
@given(changes=edits)
def test_cards(changes):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.toml"
        path.write_bytes(mutated(CARD, changes))
        answers(lambda: read_card(str(path), TeacherCard))


@examples(100)
@given(changes=edits)
def test_configurations(changes):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.toml"
        path.write_bytes(mutated(CONFIG, changes))
        answers(lambda: resolve(read_config_file(path)))


@examples(15)
@given(changes=edits)
def test_tables(changes):
    with TemporaryDirectory() as folder:
        (Path(folder) / "x.toml").write_bytes(mutated(TABLE, changes))
        answers(lambda: load_tables(Path(folder)))


def store_files():
    with TemporaryDirectory() as folder:
        store = Store(Path(folder), create=True)
        one = record("one")
        store.log(store.root / one.folder, "started")
        store.write(one)
        store.write(record("two", "failed", seed=1))
        return {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
        }


FILES = store_files()


@examples(60)
@given(name=st.sampled_from(sorted(name for name in FILES if name.endswith((".json", ".jsonl")))), changes=edits)
def test_a_damaged_record_hides_no_other(name, changes):
    with TemporaryDirectory() as folder:
        for place, content in FILES.items():
            (Path(folder) / place).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / place).write_bytes(mutated(content, changes) if place == name else content)
        if name == "tractbench-store.json":
            answers(lambda: Store(Path(folder)).records())
            return
        store = Store(Path(folder))
        found = store.records()
        assert len(found) + len(store.damaged) >= 1
        untouched = [place for place in FILES if place.endswith("record.json") and place != name]
        assert {Path(place).parent.as_posix() for place in untouched} <= {one.folder for one in found}


def png():
    return written(lambda file: Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "png"))


def zipped():
    def write(file):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for index in range(2):
                archive.writestr(f"{index}.png", png())

    return written(write)


SAMPLES = {
    "x.npz": written(lambda file: np.savez(file, np.zeros((2, 8, 8, 1), np.uint8))),
    "x.zip": zipped(),
    "x.pt": written(lambda file: torch.save(torch.zeros(2, 1, 8, 8), file)),
    "folder/x.png": png(),
}


def read_samples(path):
    found = open_samples(path)
    assert sum(len(batch) for batch in found.read()) == found.count


@pytest.mark.parametrize("name", SAMPLES)
@examples(60)
@given(changes=edits)
@pytest.mark.filterwarnings("ignore")
def test_samples(name, changes):
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mutated(SAMPLES[name], changes))
        answers(lambda: read_samples(path.parent if name.startswith("folder") else path))


def test_the_examples_are_what_they_claim(tmp_path):
    """Unchanged, each file is read or refused for what it lacks, so that its changes are near something real."""
    lacks = {"edm": "levels of 3 blocks", "protocol0": "'ema'", "flax": "not a teacher"}
    for kind in CHECKPOINTS:
        words = lacks.get(kind)
        (tmp_path / "x").write_bytes(CHECKPOINTS[kind])
        if words is None:
            assert set(read_foreign(tmp_path / "x").state) == set(STATE)
        else:
            with pytest.raises(TractbenchError, match=words):
                read_foreign(tmp_path / "x")
    assert {json.loads(content)["status"] for name, content in FILES.items() if name.endswith("/record.json")} == {
        "done", "failed",
    }  # fmt: skip
