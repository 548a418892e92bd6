"""Files of named tensors: what the safetensors library reads and writes, damage, memory."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tractbench.errors import DamagedFileError
from tractbench.io.tensors import load_tensors, read_header, save_tensors, tensors_digest

HEADER = {"student": "ab" * 32, "step": 7, "losses": [[1, 0, 4, 0.1 + 0.2]], "text": 'é "\n' + "0" * 64}


def tensors():
    random = torch.Generator().manual_seed(0)
    return {
        "a": torch.tensor([[1.0, float("nan")], [-0.0, 1e-45]]),
        "b": torch.tensor(3),
        "c": torch.empty(0, dtype=torch.float64),
        "d": torch.arange(6.0).reshape(2, 3).T,
        "e": torch.randn(2, 3, 4, 5, generator=random).to(memory_format=torch.channels_last),
        "f": torch.randn(3, generator=random).bfloat16(),
        "g": torch.tensor([True, False, True]),
        "h": torch.randn(5, dtype=torch.float64, generator=random),
        "i": torch.nn.Parameter(torch.ones(2, 2)),
        "é": torch.tensor([255], dtype=torch.uint8),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        ours, theirs = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (found[name], value))
        assert torch.equal(ours, theirs), name


def test_tensors_and_header_come_back_as_they_went_in(tmp_path):
    save_tensors(tmp_path / "x", tensors(), HEADER)
    found, header = load_tensors(tmp_path / "x", "try again")
    assert_same(found, tensors())
    assert header == read_header(tmp_path / "x") == HEADER
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_library_reads_our_files(tmp_path):
    save_tensors(tmp_path / "x", tensors(), HEADER)
    assert_same(load_file(tmp_path / "x"), tensors())
    with safe_open(tmp_path / "x", framework="pt") as handle:
        metadata = handle.metadata()
    assert json.loads(metadata["header"]) == HEADER
    assert metadata["sha256"] == tensors_digest(tensors(), metadata["header"])


def test_we_read_the_librarys_files_that_carry_the_metadata(tmp_path):
    contiguous = {name: value.detach().contiguous() for name, value in tensors().items()}
    text = json.dumps(HEADER)
    save_file(contiguous, tmp_path / "x", metadata={"header": text, "sha256": tensors_digest(contiguous, text)})
    found, header = load_tensors(tmp_path / "x", "try again")
    assert_same(found, tensors())
    assert header == HEADER


def test_the_bytes_follow_the_documented_format(tmp_path):
    save_tensors(tmp_path / "x", tensors(), HEADER)
    data = (tmp_path / "x").read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    del entries["__metadata__"]
    assert length % 8 == 0
    spans = sorted(entry["data_offsets"] for entry in entries.values())
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])]  # no holes
    assert 8 + length + spans[-1][1] == len(data)
    for name, value in tensors().items():
        begin, end = entries[name]["data_offsets"]
        assert begin % value.element_size() == 0
        raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert data[8 + length + begin : 8 + length + end] == raw
        assert entries[name]["shape"] == list(value.shape)


def test_no_tensors_are_a_file_too(tmp_path):
    save_tensors(tmp_path / "x", {}, {"a": 1})
    assert load_tensors(tmp_path / "x", "try again") == ({}, {"a": 1})


@pytest.mark.parametrize("changed", ["name", "dtype", "shape", "value", "header"])
def test_the_digest_depends_on_all_that_is_written(changed):
    plain = {"a": torch.zeros(2, 2)}
    others = {
        "name": ({"b": torch.zeros(2, 2)}, "h"),
        "dtype": ({"a": torch.zeros(2, 2, dtype=torch.int32)}, "h"),
        "shape": ({"a": torch.zeros(4)}, "h"),
        "value": ({"a": torch.tensor([[0.0, 0.0], [0.0, 1e-45]])}, "h"),
        "header": (plain, "i"),
    }
    assert tensors_digest(plain, "h") != tensors_digest(*others[changed])


def test_the_digest_does_not_depend_on_layout():
    plain = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert tensors_digest({"a": plain}) == tensors_digest({"a": plain.to(memory_format=torch.channels_last)})


def test_a_dtype_without_a_name_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(KeyError):
        save_tensors(tmp_path / "x", {"a": torch.zeros(2, dtype=torch.complex64)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "x"
    save_tensors(path, tensors(), HEADER)
    return path.read_bytes()


def assert_damaged(path):
    with pytest.raises(DamagedFileError, match="delete it") as caught:
        load_tensors(path, "delete it")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_damaged(tmp_path, written, kept):
    (tmp_path / "x").write_bytes(written[: int(kept * len(written))])
    assert_damaged(tmp_path / "x")


def test_a_flipped_bit_anywhere_but_in_the_padding_is_damage(tmp_path, written):
    end = 8 + int.from_bytes(written[:8], "little")
    padding = range(8 + len(written[8:end].rstrip(b" ")), end)
    for place in set(range(0, len(written), 7)) - set(padding):
        data = bytearray(written)
        data[place] ^= 4
        (tmp_path / "x").write_bytes(data)
        assert_damaged(tmp_path / "x")


@pytest.mark.parametrize(("was", "became"), [('"step\\": 7', '"step\\": 6'), ('"step\\"', '"stap\\"')])
def test_a_changed_header_is_damage(tmp_path, written, was, became):
    assert was.encode() in written
    (tmp_path / "x").write_bytes(written.replace(was.encode(), became.encode(), 1))
    assert_damaged(tmp_path / "x")


@pytest.mark.parametrize("metadata", [None, {"header": "{}"}, {"header": "[1]", "sha256": "0"}, {"header": "{"}])
def test_a_file_without_our_metadata_is_damaged(tmp_path, metadata):
    save_file({"a": torch.zeros(2)}, tmp_path / "x", metadata=metadata)
    assert_damaged(tmp_path / "x")


def test_something_else_is_damaged_and_has_no_header(tmp_path):
    (tmp_path / "x").write_text("a shopping list")
    assert_damaged(tmp_path / "x")
    assert read_header(tmp_path / "x") is None
    assert read_header(tmp_path / "missing") is None


def test_writing_copies_one_tensor_at_a_time(tmp_path):
    code = """
import resource, sys
from pathlib import Path
import torch
from tractbench.io.tensors import save_tensors

side = 1 << 12  # 64 MiB a tensor
tensors = {f"plain{i}": torch.full((side, side), float(i)) for i in range(2)}
for i in range(3):
    shape = (side // 4, side // 4, 4, 4)
    tensors[f"image{i}"] = torch.empty(shape, memory_format=torch.channels_last).fill_(i)
Path("warm").write_bytes(b"x" * (1 << 20))
save_tensors(Path("small"), {"a": torch.ones(8)}, {})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_tensors(Path("x"), tensors, {})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1 << 16))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    (tmp_path / "x").unlink()
    # in units of the largest tensor; an eighth of it, 8 MiB, for the interpreter's own
    assert float(done.stdout) < 1.2 + 0.125
