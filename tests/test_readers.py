"""Readers of foreign checkpoints, on files made with the formats' own libraries or byte by byte."""

import collections
import io
import math
import os
import pickle
import re
import resource
import struct
import sys
import types

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from tractbench.errors import DamagedFileError
from tractbench.nets.build import build_network, meta_network
from tractbench.teachers.readers.edm_pickle import named_tensors, read_edm_pickle
from tractbench.teachers.readers.foreign import fit, read_foreign, write_safetensors

SONG = {"channels": 3, "size": 8, "width": 16, "embedding": 64, "multipliers": (1, 2), "blocks": 1, "attention": (4,),
        "noise_width": 16}  # fmt: skip
NCSN = SONG | {"noise_width": 32, "fourier": True, "auxiliary": True, "taps": (1, 3, 3, 1), "classes": 4}
ADM = {"channels": 3, "size": 8, "width": 32, "embedding": 128, "multipliers": (1, 2), "blocks": 1, "attention": (8, 4),
       "classes": 5}  # fmt: skip
COMMON = {"img_resolution": 8, "img_channels": 3, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.13,
          "use_fp16": False, "augment_dim": 9}  # fmt: skip
KWARGS = {
    "song": COMMON | {"model_type": "SongUNet", "model_channels": 16, "attn_resolutions": [4],
                      "embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard",
                      "channel_mult_noise": 1, "resample_filter": [1, 1]},
    "ncsn": COMMON | {"model_type": "SongUNet", "model_channels": 16, "attn_resolutions": [4], "label_dim": 4,
                      "embedding_type": "fourier", "encoder_type": "residual", "decoder_type": "standard",
                      "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1]},
    "adm": COMMON | {"model_type": "DhariwalUNet", "model_channels": 32, "attn_resolutions": [8, 4], "label_dim": 5},
}  # fmt: skip
CASES = {"song": ("song_unet", SONG), "ncsn": ("song_unet", NCSN), "adm": ("dhariwal_unet", ADM)}


def network(case, **more):
    name, arguments = CASES[case]
    net = build_network(name, arguments | more, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return net.eval()


# Files in EDM's format, pickled by pickle and torch themselves under the names that the format has.


class Persistent:
    """An object that pickles as a call of the format's reconstruction function."""

    def __init__(self, class_name, state, **meta):
        self.meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": class_name,
                     "state": state} | meta  # fmt: skip

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


@pytest.fixture
def format_modules():
    """The modules that a writer of the format has; they are gone while a file is read."""
    package, module, easy = (types.ModuleType(n) for n in ("torch_utils", "torch_utils.persistence", "dnnlib.util"))
    exec("def _reconstruct_persistent_obj(meta): raise AssertionError", module.__dict__)
    exec("class EasyDict(dict): pass", easy.__dict__)
    package.persistence = module
    return {"torch_utils": package, "torch_utils.persistence": module, "dnnlib": types.ModuleType("dnnlib"),
           "dnnlib.util": easy}  # fmt: skip


def persistent(module, mapping):
    state = (
        dict(vars(module)) if isinstance(module, nn.ModuleDict) else {"training": False, "skip_scale": np.float64(0.5)}
    )
    buffers = mapping(module._buffers)
    if hasattr(module, "weight"):
        buffers.setdefault("resample_filter", None)
    children = mapping({name: child and persistent(child, mapping) for name, child in module._modules.items()})
    state |= {"_parameters": mapping(module._parameters), "_buffers": buffers, "_modules": children,
              "_non_persistent_buffers_set": set(), "_forward_hooks": collections.OrderedDict()}  # fmt: skip
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container.__dict__ = state
        return container
    return Persistent(type(module).__name__, state)


def edm_file(path, modules, net, kwargs, wrapper="EDMPrecond", protocol=4, mapping=dict, u=None, **more):
    root = persistent(net, mapping)
    augment = nn.Linear(9, 16, bias=False)
    root.meta["state"]["_modules"]["map_augment"] = persistent(augment, mapping)
    state = {"_parameters": {}, "_buffers": {} if u is None else {"u": u}, "_modules": {"model": root},
             "_init_args": (), "_init_kwargs": kwargs, "sigma_data": 0.5, "label_dim": 0}  # fmt: skip
    content = {"ema": Persistent(wrapper, state), "loss_fn": Persistent("EDMLoss", {"P_mean": np.float32(-1.2)}),
               "augment_pipe": None, "dataset_kwargs": {"path": "x"}} | more  # fmt: skip
    return dump(path, modules, content, protocol)


def dump(path, modules, content, protocol=4):
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return path


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("protocol", "mapping"), [(2, dict), (3, dict), (4, collections.OrderedDict), (5, dict)])
def test_an_edm_snapshot_is_read_to_the_last_bit(tmp_path, format_modules, case, protocol, mapping):
    net = network(case)
    path = edm_file(tmp_path / "x.pkl", format_modules, net, KWARGS[case], protocol=protocol, mapping=mapping)
    found = read_foreign(path)
    assert (found.format, found.network, found.parameterisation) == ("edm_pickle", CASES[case][0], "edm")
    assert found.arguments == CASES[case][1]
    assert found.complete
    assert found.dropped == ("model.map_augment.weight",)
    assert list(found.state) == list(net.state_dict())
    assert all(torch.equal(found.state[name], tensor) for name, tensor in net.state_dict().items())
    loaded = meta_network(found.network, found.arguments)
    loaded.load_state_dict(fit(found.state, loaded, "x"), assign=True)
    x, noise = torch.randn(2, 3, 8, 8), torch.tensor([0.1, -0.5])
    labels = torch.tensor([0, 3]) if "classes" in CASES[case][1] else None
    with torch.no_grad():
        assert torch.equal(loaded(x, noise, labels), net(x, noise, labels))


@pytest.mark.parametrize("protocol", [0, 1])
def test_the_oldest_pickle_protocols_are_read(tmp_path, format_modules, protocol):
    linear = nn.Linear(2, 2)
    net = nn.Sequential(collections.OrderedDict(inner=nn.ModuleDict({"part": linear})))
    path = edm_file(tmp_path / "x.pkl", format_modules, net, {}, protocol=protocol)
    found = dict(named_tensors(read_edm_pickle(path), path))
    assert torch.equal(found["model.inner.part.weight"], linear.weight)
    assert path.read_bytes()[:1] in (b"(", b"}")
    assert "impossible arguments" in refused(path)  # it is known as a snapshot, of no network


def test_half_precision_views_and_numpy_settings_are_read(tmp_path, format_modules):
    net = network("song").half()
    shared = torch.randn(40, 27).half().t()[3:19]  # not contiguous, with an offset
    net.map_layer0.weight = nn.Parameter(torch.zeros(64, 16).half())
    net.map_layer0.weight.data[:27] = shared.t()[:27, :16]
    kwargs = KWARGS["song"] | {"sigma_data": np.float64(0.25), "use_fp16": np.bool_(True)}
    found = read_foreign(edm_file(tmp_path / "x.pkl", format_modules, net, kwargs))
    assert found.settings == {"sigma_data": 0.25}
    assert found.state["map_layer0.weight"].dtype == torch.float16
    write_safetensors(found.state, tmp_path / "x.safetensors")
    again = read_foreign(tmp_path / "x.safetensors")
    assert again.format == "safetensors"
    assert all(torch.equal(again.state[name], tensor.float()) for name, tensor in net.state_dict().items())


def test_tensors_that_share_a_storage_keep_their_strides(tmp_path, format_modules):
    net = network("song")
    whole = torch.randn(64, 32)
    net.map_layer0.weight = nn.Parameter(whole[:, 16:])
    expected = whole[:, 16:].clone()
    found = read_foreign(edm_file(tmp_path / "x.pkl", format_modules, net, KWARGS["song"]))
    assert torch.equal(found.state["map_layer0.weight"], expected)


@pytest.mark.parametrize(
    ("wrapper", "more", "parameterisation", "settings"),
    [
        ("VPPrecond", {"beta_d": 19.9, "beta_min": 0.2, "M": 1000, "epsilon_t": 1e-5}, "vp_linear", {"beta_min": 0.2}),
        ("VEPrecond", {"sigma_min": 0.02, "sigma_max": 50}, "ve_song", {"sigma_max": 50}),
        ("VPPrecond", {"epsilon_t": 1e-3}, "vp_linear", {"epsilon_t": 1e-3}),
        ("EDMPrecond", {"sigma_min": 0, "sigma_max": math.inf, "sigma_data": 0.5}, "edm", {}),
        ("EDMPrecond", {"sigma_min": 0.01, "sigma_max": 50}, "edm", {"sigma_min": 0.01, "sigma_max": 50}),
    ],
)
def test_wrappers_become_parameterisations(tmp_path, format_modules, wrapper, more, parameterisation, settings):
    path = edm_file(tmp_path / "x", format_modules, network("song"), KWARGS["song"] | more, wrapper)
    found = read_foreign(path)
    assert (found.parameterisation, found.settings) == (parameterisation, settings)


def test_iddpm_keeps_its_levels(tmp_path, format_modules):
    u = torch.linspace(3, 0, 1001)
    kwargs = KWARGS["adm"] | {"C_1": 0.001, "C_2": 0.008, "M": 1000}
    path = edm_file(tmp_path / "x", format_modules, network("adm", outputs=6), kwargs, "iDDPMPrecond", u=u)
    found = read_foreign(path)
    assert torch.equal(found.u, u)
    assert found.arguments == ADM | {"outputs": 6}
    assert "u" not in found.state


# Attacks


def refused(path, modules=None):
    """Read a file that must be refused, with a payload's mark absent and no module imported."""
    before = set(sys.modules)
    with pytest.raises(DamagedFileError) as caught:
        read_foreign(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (path.parent / "executed").exists()
    assert set(sys.modules) == before
    return str(caught.value)


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


# PyTorch state dicts and safetensors


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read(tmp_path, key, zipped):
    state = network("adm").state_dict()
    torch.save({key: state, "step": 3} if key else state, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    found = read_foreign(tmp_path / "x")
    assert (found.format, found.network) == ("state_dict", None)
    assert all(torch.equal(found.state[name], tensor) for name, tensor in state.items())


def test_what_is_not_a_state_dict_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "x")
    assert "not a state dict" in refused(tmp_path / "x")
    torch.save({"a": 1}, tmp_path / "x")
    assert "not a state dict" in refused(tmp_path / "x")


def test_a_cut_safetensors_file_is_refused(tmp_path):
    save_file({"a": torch.ones(1000)}, tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content[:-5])
    assert "damaged" in refused(tmp_path / "x")


# Fitting


def test_what_does_not_fit_is_listed():
    state = dict(network("song").state_dict())
    net = meta_network("song_unet", SONG)
    assert list(fit(state, net, "x")) == list(state)
    first, second, *_ = state
    del state[first]
    state["odd"] = torch.ones(1)
    state[second] = torch.ones(1, 2)
    with pytest.raises(DamagedFileError) as caught:
        fit(state, net, "file.pkl")
    for words in ("file.pkl", f"1 missing: {first}", "1 unexpected: odd", f"{second} (1, 2) instead of", "; "):
        assert words in str(caught.value)
    with pytest.raises(DamagedFileError, match=r"missing: .* and \d+ more"):
        fit({}, net, "x")


def test_values_that_are_not_finite_are_named():
    state = network("song").state_dict()
    state["map_layer0.bias"][3] = math.nan
    with pytest.raises(DamagedFileError, match=r"1 tensors: map_layer0\.bias"):
        fit(state, meta_network("song_unet", SONG), "x")


# Flax


def packed(array):
    """An array as flax stores it: extension 1 of shape, dtype name and bytes."""
    content = msgpack.packb([list(array.shape), array.dtype.name, array.tobytes()], use_bin_type=True)
    return msgpack.ExtType(1, content)


NORM = {"scale": (0,), "bias": (0,)}
CH, E, CLASSES, HEADS = 32, 64, 7, 2


def flax_params(seed=0, norm=lambda c: (c,)):
    """Random parameters of a two-level flax network, [32, 64] channels, one block a level, attention at level 1."""
    random = np.random.default_rng(seed)

    def array(*shape):
        return (random.standard_normal(shape) / 5).astype(np.float32)

    def dense(inputs, outputs):
        return {"kernel": array(inputs, outputs), "bias": array(outputs)}

    def conv(inputs, outputs):
        return {"kernel": array(3, 3, inputs, outputs), "bias": array(outputs)}

    def group(channels):
        return {"scale": array(*norm(channels)), "bias": array(*norm(channels))}

    def block(inputs, outputs):
        layers = {"norm1": group(inputs), "conv1": conv(inputs, outputs), "temb_proj": dense(E, 2 * outputs),
                  "norm2": group(outputs), "conv2": conv(outputs, outputs)}  # fmt: skip
        return layers | ({"nin_shortcut": dense(inputs, outputs)} if inputs != outputs else {})

    def attention(channels):
        width = channels // HEADS
        maps = {part: {"kernel": array(channels, HEADS, width), "bias": array(HEADS, width)} for part in "qkv"}
        out = {"kernel": array(HEADS, width, channels), "bias": array(channels)}
        return {"norm": group(channels), "proj_out": out} | maps

    return {
        "dense0": dense(CH, E), "dense1": dense(E, E), "class_emb": dense(CLASSES, E), "conv_in": conv(3, CH),
        "down_0.block_0": block(32, 32), "down_0.downsample": block(32, 32),
        "down_1.block_0": block(32, 64), "down_1.attn_0": attention(64),
        "mid.block_1": block(64, 64), "mid.attn_1": attention(64), "mid.block_2": block(64, 64),
        "up_1.block_0": block(128, 64), "up_1.attn_0": attention(64), "up_1.block_1": block(96, 64),
        "up_1.attn_1": attention(64), "up_1.upsample": block(64, 64),
        "up_0.block_0": block(96, 32), "up_0.block_1": block(64, 32),
        "norm_out": group(32), "conv_out": conv(32, 6),
    }  # fmt: skip


def packed_tree(tree):
    return {key: packed_tree(value) if isinstance(value, dict) else packed(value) for key, value in tree.items()}


def flax_file(path, params, optimizer=None, **more):
    content = {"step": packed(np.array(7, np.int32)), "optimizer": optimizer, "ema_params": packed_tree(params),
               "num_sample_steps": 0} | more  # fmt: skip
    path.write_bytes(msgpack.packb(content, use_bin_type=True))
    return path


GOOGLE = {"channels": 3, "size": 8, "width": 32, "embedding": 64, "multipliers": (1, 2), "blocks": 1, "attention": (4,),
          "head_width": 32, "classes": 7, "outputs": 6}  # fmt: skip

PLACES = {
    "dense0": "time.0", "dense1": "time.2", "class_emb": "class_emb", "conv_in": "down.0",
    "down_0.block_0": "down.1.resblocks", "down_0.downsample": "down.2",
    "down_1.block_0": "down.3.resblocks", "down_1.attn_0": "down.3.attention",
    "mid.block_1": "mid.0.resblocks", "mid.attn_1": "mid.0.attention", "mid.block_2": "mid.1.resblocks",
    "up_1.block_0": "up.0.resblocks", "up_1.attn_0": "up.0.attention",
    "up_1.block_1": "up.1.resblocks", "up_1.attn_1": "up.1.attention", "up_1.upsample": "up.2",
    "up_0.block_0": "up.3.resblocks", "up_0.block_1": "up.4.resblocks", "norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def google(path):
    found = read_foreign(path)
    net = meta_network("google_unet", GOOGLE)
    net.load_state_dict(fit(found.state, net, "x"), assign=True)
    return found, net.eval()


def group_norm(x, parameters):
    """GroupNorm of 32 groups on ``x`` ``[N, H, W, C]``, as flax lays images out."""
    n, h, w, c = x.shape
    groups = x.reshape(n, h * w, 32, c // 32)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    out = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    return out * parameters["scale"].reshape(-1) + parameters["bias"].reshape(-1)


def conv(x, parameters):
    """A 3x3 convolution of ``x`` ``[N, H, W, C]`` with a kernel ``[3, 3, in, out]``."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    out = sum(
        np.einsum("nhwc,co->nhwo", padded[:, i : i + h, j : j + w], parameters["kernel"][i, j])
        for i in range(3)
        for j in range(3)
    )
    return out + parameters["bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def flax_block(x, e, p):
    a = conv(silu(group_norm(x, p["norm1"])), p["conv1"])
    scale, shift = np.split(silu(e) @ p["temb_proj"]["kernel"] + p["temb_proj"]["bias"], 2, axis=1)
    a = group_norm(a, p["norm2"]) * (1 + scale[:, None, None]) + shift[:, None, None]
    a = conv(silu(a), p["conv2"])
    short = x @ p["nin_shortcut"]["kernel"] + p["nin_shortcut"]["bias"] if "nin_shortcut" in p else x
    return short + a


def flax_attention(x, p):
    h = group_norm(x, p["norm"])
    q, k, v = (np.einsum("nxyc,chd->nxyhd", h, p[part]["kernel"]) + p[part]["bias"] for part in "qkv")
    weights = np.einsum("nxyhd,nuvhd->nhxyuv", q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(weights - weights.max((-1, -2), keepdims=True))
    weights /= weights.sum((-1, -2), keepdims=True)
    o = np.einsum("nhxyuv,nuvhd->nxyhd", weights, v)
    return x + np.einsum("nxyhd,hdc->nxyc", o, p["proj_out"]["kernel"]) + p["proj_out"]["bias"]


@pytest.mark.parametrize("norm", [lambda c: (c,), lambda c: (1, 1, 1, c)], ids=["flat", "old"])
@torch.no_grad()
def test_converted_blocks_compute_what_flax_computes(tmp_path, norm):
    params = flax_params(norm=norm)
    found, net = google(flax_file(tmp_path / "x", params))
    assert (found.format, found.network, found.parameterisation) == ("flax", "google_unet", "both")
    assert found.arguments == {key: GOOGLE[key] for key in found.arguments}
    random = np.random.default_rng(5)
    e = random.standard_normal((2, E))
    for name in ("down_1.block_0", "mid.block_1", "up_0.block_0"):
        p = params[name]
        x = random.standard_normal((2, 4, 4, p["conv1"]["kernel"].shape[2]))
        block = net.get_submodule(PLACES[name]).double()
        out = block(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(e)).permute(0, 2, 3, 1)
        assert_close(out.numpy(), flax_block(x, e, p), rtol=1e-6, atol=1e-6)
    for name in ("down_1.attn_0", "mid.attn_1", "up_1.attn_1"):
        x = random.standard_normal((2, 4, 4, 64))
        out = net.get_submodule(PLACES[name]).double()(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert_close(out.numpy(), flax_attention(x, params[name]), rtol=1e-6, atol=1e-6)
    x = random.standard_normal((2, 8, 8, 3))
    out = net.down[0].double()(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert_close(out.numpy(), conv(x, params["conv_in"]), rtol=1e-6, atol=1e-6)
    raw = random.standard_normal((2, CH))
    hidden = silu(raw @ params["dense0"]["kernel"] + params["dense0"]["bias"])
    expected = hidden @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    assert_close(net.time.double()(torch.from_numpy(raw)).numpy(), expected, rtol=1e-6, atol=1e-6)
    row = params["class_emb"]["kernel"][4] + params["class_emb"]["bias"]
    assert_close(net.class_emb(nn.functional.one_hot(torch.tensor(4), CLASSES).float()).numpy(), row)


def test_every_layer_has_its_place(tmp_path):
    params = flax_params()
    state = read_foreign(flax_file(tmp_path / "x", params)).state
    for layer, place in PLACES.items():
        inner = params[layer]
        leaf = inner if "bias" in inner else inner["conv1" if "conv1" in inner else "proj_out"]
        name = place if "bias" in inner else f"{place}.{'conv1' if 'conv1' in inner else 'out'}"
        assert np.array_equal(state[f"{name}.bias"].numpy(), leaf["bias"].reshape(-1)), layer


def test_optimiser_state_is_passed_over(tmp_path):
    params = flax_params()
    optimizer = {"target": packed_tree(flax_params(1)), "state": {"step": packed(np.array(3))}}
    found = read_foreign(flax_file(tmp_path / "x", params, optimizer))
    plain = read_foreign(flax_file(tmp_path / "y", params))
    assert all(torch.equal(found.state[name], tensor) for name, tensor in plain.state.items())


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (msgpack.ExtType(1, msgpack.packb([[2], "float32", b"\0" * 7])), "other bytes"),
        (msgpack.ExtType(1, msgpack.packb([[-2], "float32", b"\0" * 8])), "other bytes"),
        (msgpack.ExtType(1, msgpack.packb([[1], "object", b"\0" * 8])), "dtype"),
        (msgpack.ExtType(1, msgpack.packb([[1 << 40, 1 << 40], "float32", b""])), "other bytes"),
        (msgpack.ExtType(1, msgpack.packb(3)), "without shape"),
        (msgpack.ExtType(2, msgpack.packb([[1], "float32", b"\0" * 4])), "extension type 2"),
        ("text", "neither"),
        ({"__msgpack_chunked_array__": True}, "neither"),
    ],
)
def test_false_arrays_are_refused(tmp_path, array, reason):
    params = packed_tree(flax_params())
    params["conv_in"]["kernel"] = array
    (tmp_path / "x").write_bytes(msgpack.packb({"ema_params": params, "step": 1}))
    assert reason in refused(tmp_path / "x")


def test_flax_files_of_another_network_are_refused(tmp_path):
    for change in ("rename", "drop", "extra"):
        params = flax_params()
        if change == "rename":
            params["mystery"] = params.pop("mid.block_1")
        elif change == "drop":
            del params["conv_in"]
        else:
            params["mid.block_1"]["odd"] = params["mid.block_1"]["conv1"]
        refused(flax_file(tmp_path / "x", params))
    (tmp_path / "x").write_bytes(msgpack.packb({"params": {}, "step": 1}))
    assert "ema_params" in refused(tmp_path / "x")
    (tmp_path / "x").write_bytes(msgpack.packb({"ema_params": {1: 2}}))
    refused(tmp_path / "x")


def test_cut_and_oversized_flax_files_are_refused(tmp_path):
    path = flax_file(tmp_path / "x", flax_params())
    content = path.read_bytes()
    for cut in (1, 5, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        refused(path)
    path.write_bytes(content + b"\x01")
    assert "1 bytes after" in refused(path)
    path.write_bytes(b"\xdf\xff\xff\xff\xff\xa1a\x01")  # a map that claims 2^32 - 1 entries
    refused(path)
    path.write_bytes(b"\x81\xaaema_params\xc9\xff\xff\xff\xff\x01")  # an array that claims 4 GiB
    refused(path)
