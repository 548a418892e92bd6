"""Checkpoints that are made to run code, to ask for memory or to be taken for others, many of them byte by byte."""

import collections
import io
import os
import pickle
import re
import resource
import struct

import numpy as np
import pytest
import torch
from readers_data import (
    KWARGS,
    Persistent,
    dump,
    edm_file,
    flax_file,
    flax_params,
    modules_of_the_format,
    network,
    refused,
)
from torch import nn

from tractbench.errors import DamagedFileError
from tractbench.teachers.readers.foreign import read_foreign


@pytest.fixture
def format_modules():
    return modules_of_the_format()


class Shell:
    def __init__(self, path):
        self.command = f"touch {path.parent / 'executed'}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_shell_call_is_refused(tmp_path, format_modules, protocol):
    path = tmp_path / "x"
    dump(path, format_modules, {"ema": Shell(path)}, protocol)
    message = refused(path)
    assert "system" in message
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists()  # the payload works where it is let


class Loaded:
    """A storage whose bytes are a pickle of somebody's choice."""

    def __init__(self, blob):
        self.blob = blob

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.blob,)


class Tensor:
    def __init__(self, blob, offset=0, size=(2,), stride=(1,)):
        self.arguments = (Loaded(blob), offset, size, stride, False, collections.OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


def blob(magic=0x1950A86A20F9469CFC6C, version=1001, little=True, count=2, claimed=2, elements=2, keys=("0",)):
    """A storage in torch's old format, byte by byte."""

    class Saver(pickle.Pickler):
        def persistent_id(self, thing):
            return ("storage", torch.FloatStorage, "0", "cpu", count, None) if thing is Ellipsis else None

    file = io.BytesIO()
    for part in (magic, version, {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}):
        pickle.dump(part, file, protocol=2)
    Saver(file, protocol=2).dump(...)
    pickle.dump(list(keys), file, protocol=2)
    file.write(struct.pack("<q", claimed) + struct.pack(f"<{elements}f", *range(elements)))
    return file.getvalue()


def with_tensor(path, modules, tensor):
    state = {"_parameters": {"w": tensor}, "_buffers": {}, "_modules": {}, "_init_args": (),
             "_init_kwargs": KWARGS["song"]}  # fmt: skip
    return dump(path, modules, {"ema": Persistent("EDMPrecond", state)})


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_the_hand_made_storage_is_the_true_format(tmp_path, format_modules):
    assert torch.storage._load_from_bytes(blob()).tolist() == [0, 1]
    assert "unexpected tensor 'w'" in refused(with_tensor(tmp_path / "x", format_modules, Tensor(blob())))


def test_a_shell_call_inside_a_storage_is_refused(tmp_path, format_modules):
    path = tmp_path / "x"
    with_tensor(path, format_modules, Tensor(pickle.dumps(Shell(path), protocol=2)))
    assert "system" in refused(path)


def test_a_shell_call_inside_a_torch_file_is_refused(tmp_path):
    path = tmp_path / "x"
    for zipped in (True, False):
        torch.save({"weight": Shell(path)}, path, _use_new_zipfile_serialization=zipped)
        refused(path)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (lambda: Tensor(blob(magic=7)), "magic"),
        (lambda: Tensor(blob(version=1002)), "magic"),
        (lambda: Tensor(blob(little=False)), "little-endian"),
        (lambda: Tensor(blob(keys=("1",))), "keys"),
        (lambda: Tensor(blob(claimed=3)), "bytes for"),
        (lambda: Tensor(blob(elements=1)), "bytes for"),
        (lambda: Tensor(blob(elements=3)), "bytes for"),
        (lambda: Tensor(blob(count=-1, claimed=-1)), "reference"),
        (lambda: Tensor(blob()[:-20]), "exhausted before"),
        (lambda: Tensor(blob(), size=(3,)), "outside"),
        (lambda: Tensor(blob(), size=(2,), stride=(2,)), "outside"),
        (lambda: Tensor(blob(), offset=1), "outside"),
        (lambda: Tensor(blob(), offset=-1), "sizes or strides"),
        (lambda: Tensor(blob(), stride=(-1,)), "sizes or strides"),
        (lambda: Tensor(blob(), size=(2.0,)), "sizes or strides"),
        (lambda: Tensor(blob(), size=(True,)), "sizes or strides"),
        (lambda: Tensor(blob(), size=(1, 2)), "with strides"),
    ],
)
def test_false_storages_and_tensors_are_refused(tmp_path, format_modules, tensor, reason):
    assert re.search(reason, refused(with_tensor(tmp_path / "x", format_modules, tensor())))


class Named:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "thing",
    [
        Named(np.dtype, "O"),
        Named(np._core.multiarray.scalar, np.dtype("O"), b"cos\nsystem\n."),
        Named(eval, "1"),
        Named(getattr, {}, "keys"),
        Named(__import__, "antigravity"),
        collections.Counter(),
        Persistent("EDMPrecond", {}, version=7),
        Persistent("EDMPrecond", {}, type="module"),
        Persistent("EDMPrecond", []),
    ],
    ids=range(9),
)
def test_unknown_names_are_refused(tmp_path, format_modules, thing):
    refused(dump(tmp_path / "x", format_modules, {"ema": thing}))


def test_a_state_cannot_reach_the_readers_own_functions(tmp_path):
    from tractbench.teachers.readers import edm_pickle

    before = dict(vars(edm_pickle.Node))
    for name in (
        b"ctorch.nn.modules.container\nModuleDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cnumpy\ndtype\n",
    ):
        path = tmp_path / "x"
        path.write_bytes(b"\x80\x02" + name + b"N}X\x0c\x00\x00\x00__setstate__K\x01s\x86b.")  # BUILD (None, {...: 1})
        refused(path)
    assert dict(vars(edm_pickle.Node)) == before


def test_a_module_inside_itself_is_refused(tmp_path, format_modules):
    container = nn.ModuleDict()
    container._modules["again"] = container
    state = {"_parameters": {}, "_buffers": {}, "_modules": {"model": container}, "_init_args": (),
             "_init_kwargs": KWARGS["song"]}  # fmt: skip
    assert "met before" in refused(dump(tmp_path / "x", format_modules, {"ema": Persistent("EDMPrecond", state)}))


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02r\x00\x00\x00\x10.",  # remembers something as number 2^28
        b"\x80\x02Nr\x00\x00\x00\x10.",
        b"\x80\x02)" + b"q\x00h\x00h\x00\x86" * 64 + b"}h\x00K\x01s.",  # a tuple of 2^64 parts, then its hash
        b"\x80\x02" + b")" + b"\x85" * 100_000 + b".",  # tuples 100,000 deep
    ],
    ids=range(4),
)
def test_a_few_bytes_cannot_ask_for_memory_or_time(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path / "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_children_shared_by_all_are_not_walked_through_again_and_again(tmp_path, format_modules):
    inner = nn.ModuleDict()
    for _ in range(18):
        outer = nn.ModuleDict()
        outer._modules = dict.fromkeys("abcdefgh", inner)
        inner = outer
    state = {"_parameters": {}, "_buffers": {}, "_modules": {"model": inner}, "_init_args": (),
             "_init_kwargs": KWARGS["song"]}  # fmt: skip
    assert "met before" in refused(dump(tmp_path / "x", format_modules, {"ema": Persistent("EDMPrecond", state)}))


def test_a_false_number_of_blocks_builds_no_endless_network(tmp_path, format_modules):
    kwargs = KWARGS["song"] | {"num_blocks": 1 << 24}
    assert "levels of 16777216 blocks" in refused(edm_file(tmp_path / "x", format_modules, network("song"), kwargs))
    params = flax_params()
    params["down_999999999.block_0"] = params["down_1.block_0"]
    assert "levels in" in refused(flax_file(tmp_path / "y", params))


@pytest.mark.parametrize("content", [{}, {"G_ema": 1}, {"ema": 3}, [], {"ema": Persistent("EDMLoss", {})}])
def test_a_pickle_without_network_is_refused(tmp_path, format_modules, content):
    assert "'ema'" in refused(dump(tmp_path / "x", format_modules, content))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "UNet"}, "UNet"),
        ({"surprise": 1}, "surprise"),
        ({"decoder_type": "skip"}, "decoder_type"),
        ({"embedding_type": "zero"}, "embedding_type"),
        ({"img_resolution": "big"}, "impossible"),
        ({"sigma_data": "x"}, "sigma_data"),
    ],
)
def test_unknown_recipes_are_refused(tmp_path, format_modules, changes, reason):
    assert reason in refused(edm_file(tmp_path / "x", format_modules, network("song"), KWARGS["song"] | changes))


def test_truncated_and_oversized_files_are_refused(tmp_path, format_modules):
    whole = edm_file(tmp_path / "x", format_modules, network("song"), KWARGS["song"])
    content = whole.read_bytes()
    for cut in (1, 2, 3, 10, 100, 1000, len(content) // 3, len(content) // 2, len(content) - 100, len(content) - 1):
        whole.write_bytes(content[:cut])
        refused(whole)
    whole.write_bytes(content + b"\x00")
    assert "1 bytes after its end" in refused(whole)
    whole.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.")  # a claim of 2^60 bytes
    refused(whole)


def test_no_known_format(tmp_path):
    for content in (b"", b"\x80", b"hello world, this is text", b"\x89PNG\r\n\x1a\n" * 4, b"PK\x03\x04nothing"):
        (tmp_path / "x").write_bytes(content)
        refused(tmp_path / "x")
    with pytest.raises(DamagedFileError, match="give the path"):
        read_foreign(tmp_path / "missing")
