"""Readers of EDM's snapshots, state dicts and safetensors, on files made with the formats' own libraries."""

import collections
import math

import numpy as np
import pytest
import torch
from readers_data import ADM, CASES, KWARGS, SONG, edm_file, modules_of_the_format, network, refused
from safetensors.torch import save_file
from torch import nn

from tractbench.errors import DamagedFileError
from tractbench.nets.build import meta_network
from tractbench.teachers.readers.edm_pickle import named_tensors, read_edm_pickle
from tractbench.teachers.readers.foreign import fit, read_foreign, write_safetensors


@pytest.fixture
def format_modules():
    return modules_of_the_format()


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
