import hashlib
import tomllib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from tractbench.datasets.digits import Digits
from tractbench.diffusion.processes import load_process
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.nets.build import build_network
from tractbench.registry import dataset_names, load_dataset
from tractbench.seeds import generator
from tractbench.teachers.card import (
    SHIPPED,
    Card,
    FeatureCard,
    TeacherCard,
    load_network,
    read_card,
    to_toml,
    write_card,
)
from tractbench.teachers.load import load_teacher

NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))
GRIDS = {"vp": 1024, "ve": 40}
MLP = {"channels": 1, "size": 4, "width": 8, "blocks": 1, "embedding": 4}


def small_network(**changes):
    return build_network("mlp", MLP | changes, generator("tests", "card"))


def written(folder, network=None, **changes):
    fields = {
        "name": "mine",
        "summary": "a small one",
        "dataset": "digits",
        "network": "mlp",
        "arguments": MLP,
        "licence": "CC0-1.0",
        "command": "make-it --again",
        "process": "vp",
        "parameterisation": "x0",
    }
    return write_card(TeacherCard, folder, network or small_network(), **fields | changes)


def with_content(folder, card, content):
    """The card with another weights file that has the right hash."""
    (folder / card.file).write_bytes(content)
    return card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})


def assert_damaged(card, folder):
    with pytest.raises(DamagedFileError) as caught:
        load_network(card, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder / card.file) in message
    assert card.command in message
    return message


def test_every_shipped_card_has_its_weights():
    assert {"digits-vp", "digits-classifier"} <= set(NAMES)
    assert {path.stem for path in SHIPPED.glob("*.safetensors")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_cards_tell_the_truth(name):
    card, folder = read_card(name, FeatureCard if name.endswith("classifier") else TeacherCard)
    assert card.name == name
    assert card.sha256 == hashlib.sha256((folder / card.file).read_bytes()).hexdigest()
    network = load_network(card, folder)
    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert all(bool(p.isfinite().all()) and not p.requires_grad for p in network.parameters())
    assert not network.training


@pytest.mark.parametrize("name", sorted(set(dataset_names()) - {"cifar10", "imagenet64"}))
def test_every_data_set_names_cards_that_load(name):
    dataset = load_dataset(name)
    for process, card in dataset.workload.teachers.items():
        teacher = load_teacher(card, dataset, load_process(process, GRIDS[process]))
        x = torch.zeros(2, *dataset.shape)
        assert teacher.denoiser(x, torch.tensor([0.1, 0.9], dtype=torch.float64)).shape == x.shape
    if dataset.clips:
        assert read_card(dataset.workload.features, FeatureCard)[0].dataset == name


def test_a_written_card_reads_back_to_the_same_network(tmp_path):
    network = small_network()
    card = written(tmp_path, network)
    read, folder = read_card(str(tmp_path / "mine.toml"), TeacherCard)
    assert (read, folder) == (card, tmp_path)
    loaded = load_network(read, folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))
    assert loaded.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("place", [0, 9, 0.5, -1])
@pytest.mark.parametrize("bit", [1, 128])
def test_a_flipped_bit_is_seen(tmp_path, place, bit):
    card = written(tmp_path)
    path = tmp_path / card.file
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= bit
    path.write_bytes(data)
    assert card.sha256[:12] in assert_damaged(card, tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_truncated_file_is_seen(tmp_path, kept):
    card = written(tmp_path)
    path = tmp_path / card.file
    path.write_bytes(path.read_bytes()[:kept])
    assert_damaged(card, tmp_path)


def test_a_missing_file_is_seen(tmp_path):
    card = written(tmp_path)
    (tmp_path / card.file).unlink()
    assert "No such file" in assert_damaged(card, tmp_path)


def test_a_damaged_shipped_file_asks_for_a_new_installation(tmp_path, monkeypatch):
    monkeypatch.setattr("tractbench.teachers.card.SHIPPED", tmp_path)
    card = written(tmp_path)
    (tmp_path / card.file).unlink()
    with pytest.raises(DamagedFileError, match="reinstall tractbench"):
        load_network(card, tmp_path)


def renamed(state):
    state["input.wait"] = state.pop("input.weight")


def missing(state):
    del state["output.bias"]


def extra(state):
    state["surplus"] = torch.zeros(1)


def reshaped(state):
    state["input.weight"] = state["input.weight"].T.contiguous()


@pytest.mark.parametrize(
    ("change", "key"),
    [(renamed, "input.wait"), (missing, "output.bias"), (extra, "surplus"), (reshaped, "input.weight")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tensors_that_do_not_fit_the_network_are_named(tmp_path, change, key):
    card = written(tmp_path)
    state = dict(small_network().state_dict())
    change(state)
    card = with_content(tmp_path, card, save(state))
    assert key in assert_damaged(card, tmp_path)


def test_weights_of_another_width_do_not_fit(tmp_path):
    card = written(tmp_path, small_network(width=16))
    assert "'mlp'" in assert_damaged(card, tmp_path)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_file_that_is_no_weights_file_is_seen(tmp_path, content):
    card = with_content(tmp_path, written(tmp_path), content)
    assert_damaged(card, tmp_path)


@pytest.mark.parametrize(
    ("name", "answer"), [("digits-vq", "did you mean 'digits-vp'"), ("zzzzz", "known: digits-classifier, ")]
)
def test_an_unknown_card_is_answered_with_the_known_ones(name, answer):
    with pytest.raises(ConfigError) as caught:
        read_card(name, TeacherCard)
    assert repr(name) in str(caught.value)
    assert answer in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_of_another_kind_is_refused():
    for name, kind in (("digits-classifier", TeacherCard), ("digits-vp", FeatureCard)):
        with pytest.raises(ConfigError, match=f"is not a {kind.__name__}") as caught:
            read_card(name, kind)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"name = ", b"\xff\xfe", b'name = "x"\nsurprise = 1\n'])
def test_a_bad_card_is_one_line_with_its_path(tmp_path, content):
    path = tmp_path / "card.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_card(str(path), TeacherCard)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Faces(Digits):
    name = "faces"


def test_a_teacher_for_something_else_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not 'faces' and 'vp'"):
        load_teacher("digits-vp", Faces(), load_process("vp", 1024))
    written(tmp_path, parameterisation="x1")
    with pytest.raises(ConfigError, match="unknown parameterisation 'x1'; did you mean 'x0'"):
        load_teacher(str(tmp_path / "mine.toml"), Digits(), load_process("vp", 1024))


def test_a_network_that_cannot_be_built_is_refused(tmp_path):
    card = written(tmp_path)
    with pytest.raises(ConfigError, match="unknown network 'mlq'; did you mean 'mlp'"):
        load_network(card.model_copy(update={"network": "mlq"}), tmp_path)
    with pytest.raises(ConfigError, match="'mlp' cannot be built"):
        load_network(card.model_copy(update={"arguments": {"width": 3}}), tmp_path)


def test_a_teachers_hash_follows_weights_and_architecture_but_not_words(tmp_path):
    tiny = Digits()
    tiny.shape = (1, 4, 4)

    def hash_of(folder, network=None, **changes):
        written(tmp_path / folder, network, **changes)
        return load_teacher(str(tmp_path / folder / "mine.toml"), tiny, load_process("vp", 1024)).hash

    first = hash_of("a")
    assert hash_of("b", summary="other words", command="other", licence="MIT") == first
    changed = small_network()
    with torch.no_grad():
        changed.output.bias[0] += 1e-6
    assert hash_of("c", changed) != first
    assert hash_of("d", small_network(classes=0), arguments=MLP | {"classes": 0}) != first


hostile = st.text(max_size=30) | st.sampled_from(
    ['"', '"""', "\\", "\\u0041", "a\nb", "\r\n", "\x00\x7f\x1f", "é\u2028\U0001f600", "'''", "#"]
)


@settings(deadline=None)
@given(
    name=hostile,
    summary=hostile,
    command=hostile,
    arguments=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True), st.integers(-(2**63), 2**63 - 1), max_size=4
    ),
    accuracy=st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_card_with_hostile_words_reads_back(name, summary, command, arguments, accuracy):
    card = FeatureCard(
        name=name,
        summary=summary,
        dataset="digits",
        network="mlp",
        arguments=arguments,
        parameters=3,
        file="x.safetensors",
        sha256="0" * 64,
        licence="CC0-1.0",
        command=command,
        accuracy=accuracy,
    )
    assert FeatureCard.model_validate(tomllib.loads(to_toml(card))) == card


def test_cards_are_frozen_and_closed():
    card, _ = read_card("digits-vp", TeacherCard)
    assert isinstance(card, Card)
    with pytest.raises(ValueError, match="frozen"):
        card.sha256 = "0" * 64


def test_a_teacher_for_other_images_is_refused_in_one_line(tmp_path):
    written(tmp_path)
    with pytest.raises(ConfigError, match=r"does not fit images of shape \(1, 8, 8\)") as caught:
        load_teacher(str(tmp_path / "mine.toml"), Digits(), load_process("vp", 1024))
    assert "\n" not in str(caught.value)


def test_a_teacher_of_another_process_than_its_parameterisation_is_refused(tmp_path):
    written(tmp_path, process="vp", parameterisation="edm")
    with pytest.raises(ConfigError, match="parameterisation 'edm' is for process 've', not 'vp'"):
        load_teacher(str(tmp_path / "mine.toml"), Digits(), load_process("vp", 1024))
