"""Which weights are taken from a checkpoint that holds several, and what is put before their names."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tractbench.errors import ConfigError, DamagedFileError
from tractbench.teachers.readers.foreign import fit, read_foreign, write_safetensors


def state(value, prefix=""):
    return {f"{prefix}{name}": torch.full((2,), float(value)) for name in ("a.weight", "b.bias")}


def saved(path, content):
    torch.save(content, path)
    return path


RAW, AVERAGE = 1.0, 2.0


@pytest.mark.parametrize(
    "content",
    [
        {"model": state(RAW), "ema": state(AVERAGE), "step": 3},
        {"net": state(RAW), "ema": state(AVERAGE)},
        {"state_dict": state(RAW), "ema_state_dict": state(AVERAGE)},
        {"model": state(RAW), "model_ema": state(AVERAGE), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        {"model": state(RAW), "ema": {"decay": 0.999, "state_dict": state(AVERAGE, "module.")}},
        {"state": {"model": {"raw": state(RAW), "ema": state(AVERAGE)}}},
        {"state_dict": state(RAW, "net.") | state(AVERAGE, "net_ema."), "pytorch-lightning_version": "2"},
        {"state_dict": state(RAW, "model.") | state(AVERAGE, "model_ema.") | {"model_ema.decay": torch.tensor(0.9)}},
        state(RAW, "online_model.") | state(AVERAGE, "ema_model.module.") | {"initted": torch.tensor(True)},
    ],
    ids=range(9),
)
def test_the_average_is_taken_and_said(tmp_path, content):
    found = read_foreign(saved(tmp_path / "x", content))
    assert set(found.state) == set(state(0))
    assert all(tensor.eq(AVERAGE).all() for tensor in found.state.values())
    assert "averaged weights" in found.taken


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "ema.", "ema_model.", "net.", "module._orig_mod.", "model.net."]
)
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_wrappers_leave_the_names(tmp_path, prefix, kind):
    (saved if kind == "torch" else lambda path, content: save_file(content, path))(tmp_path / "x", state(5, prefix))
    found = read_foreign(tmp_path / "x")
    assert set(found.state) == set(state(0))
    assert found.taken is None


@pytest.mark.parametrize(
    ("content", "key", "value"),
    [
        ({"model": state(RAW), "ema": state(AVERAGE)}, "model", RAW),
        ({"ema_0.999": state(3), "ema_0.9999": state(4)}, "ema_0.9999", 4),
        ({"net": state(3), "discriminator": state(4)}, "net", 3),
        (state(RAW, "net.") | state(AVERAGE, "ema."), "net", RAW),
        ({"model": state(RAW), "ema": {"shadow_params": [torch.ones(2), torch.ones(2)]}}, "model", RAW),
    ],
    ids=range(5),
)
def test_a_key_says_which(tmp_path, content, key, value):
    found = read_foreign(saved(tmp_path / "x", content), key)
    assert all(tensor.eq(value).all() for tensor in found.state.values())
    assert found.taken.startswith(key)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"ema_0.999": state(3), "ema_0.9999": state(4)}, "several averages: ema_0.999, ema_0.9999"),
        ({"net": state(3), "discriminator": state(4)}, "several networks: net, discriminator"),
        ({"model": state(RAW), "ema": {"shadow_params": [torch.ones(2)]}}, r"without names \(ema.shadow_params\)"),
    ],
)
def test_what_is_ambiguous_is_asked(tmp_path, content, words):
    with pytest.raises(ConfigError, match=f"{words}.*--key"):
        read_foreign(saved(tmp_path / "x", content))


def test_an_unknown_key_names_the_known_ones(tmp_path):
    path = saved(tmp_path / "x", {"model": state(RAW), "ema": state(AVERAGE)})
    with pytest.raises(ConfigError, match="holds model, ema"):
        read_foreign(path, "emma")
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(ConfigError, match="no PyTorch or safetensors"):
        read_foreign(path, "ema")


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(3, 3).to_sparse(),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3, device="meta"),
    ],
    ids=["sparse", "complex", "meta"],
)
def test_tensors_that_are_no_weights_are_refused_by_name(tmp_path, odd):
    with pytest.raises(DamagedFileError, match=r"x: a\.weight is|not a PyTorch file"):
        read_foreign(saved(tmp_path / "x", {"a.weight": odd}))


def test_eight_bit_floats_keep_their_values(tmp_path):
    values = torch.tensor([0.5, -1.5, 2.0])
    found = read_foreign(saved(tmp_path / "x", {"a": values.to(torch.float8_e4m3fn)}))
    assert torch.equal(found.state["a"], values)


def test_tied_tensors_are_written_apart(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    found = read_foreign(saved(tmp_path / "x", net.state_dict()))
    write_safetensors(fit(found.state, net, "x"), tmp_path / "y")
    again = read_foreign(tmp_path / "y").state
    assert all(torch.equal(again[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False])
def test_files_cut_anywhere_are_one_line_without_escapes(tmp_path, zipped):
    path = tmp_path / "x"
    torch.save(state(1), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    for cut in range(20, len(content), max(1, len(content) // 60)):
        path.write_bytes(content[:cut])
        with pytest.raises(DamagedFileError) as caught:
            read_foreign(path)
        assert str(caught.value).isprintable()


def test_a_diffusers_folder_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(DamagedFileError, match="diffusers' networks"):
        read_foreign(tmp_path)
