"""Cards of published teachers, and importing, downloading and verifying files in their formats."""

import hashlib
import tomllib

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tractbench.config.resolve import resolve
from tractbench.diffusion.preconditioning import iddpm_levels
from tractbench.diffusion.processes import VE
from tractbench.methods.cd import CD
from tractbench.nets.build import build_network, meta_network
from tractbench.pipeline.cell import identify
from tractbench.registry import load_dataset
from tractbench.teachers import published as module
from tractbench.teachers.card import PUBLISHED, read_card
from tractbench.teachers.load import load_teacher, teacher_process
from tractbench.teachers.published import Published, published_teachers
from tractbench.teachers.readers.foreign import Foreign
from tractbench.teachers.reported import Reported

TINY = Published(
    name="tiny-google",
    summary="a tiny one",
    dataset="cifar10",
    process="vp",
    network="google_unet",
    arguments={"channels": 3, "size": 8, "width": 32, "embedding": 32, "multipliers": (1, 2), "blocks": 1,
               "attention": (4,)},
    parameterisation="x0",
    parameters=0,
    format="state_dict",
    licence="CC0-1.0, nobody",
    url="http://127.0.0.1:9/tiny.pt",
    figures=(Reported(value=7.5, sampler="any", nfe=1, source="nowhere"),),
)  # fmt: skip


def network(**changes):
    net = build_network(TINY.network, TINY.arguments | changes, torch.Generator().manual_seed(3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(4))
    return net


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A published teacher small enough to make here, and an empty cache."""
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    count = sum(p.numel() for p in network().parameters())
    tiny = TINY.model_copy(update={"parameters": count})
    monkeypatch.setattr(module, "published_teachers", lambda: {tiny.name: tiny})
    return tiny


def saved(path, net=None):
    torch.save((net or network()).state_dict(), path)
    return path


@pytest.mark.parametrize("name", published_teachers())
def test_published_cards_build_their_networks(name):
    card = published_teachers()[name]
    assert card.name == name
    assert sum(p.numel() for p in meta_network(card.network, card.arguments).parameters()) == card.parameters
    assert card.licence
    assert card.format in ("flax", "edm_pickle", "state_dict")
    assert (card.fid is None) == (card.fid_source is None)
    assert card.url is None or card.url.startswith("https://")
    assert card.url or card.note
    assert (card.arguments.get("outputs", 0) == 6) == (card.parameterisation == "both")


def test_the_papers_teachers_are_published():
    cards = published_teachers()
    assert {"google-cifar10", "google-cifar10-port", "google-imagenet64", "google-imagenet64-port",
            "edm-cifar10-uncond-ve", "edm-cifar10-uncond-vp", "edm-cifar10-cond-ve", "edm-cifar10-cond-vp",
            "edm-imagenet64-adm"} == set(cards)  # fmt: skip
    assert {path.stem for path in PUBLISHED.glob("*.toml")} == set(cards)
    for name in cards:
        if name.startswith("edm"):
            assert "CC BY-NC-SA 4.0" in cards[name].licence
            assert "classes" in cards[name].arguments or "uncond" in name


def test_import_writes_weights_and_card(tractbench, card, tmp_path):
    path = saved(tmp_path / "tiny.pt")
    done = tractbench("teacher", "import", path, "--card", card.name, "--json")
    assert done.code == 0, done.err
    source = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = tmp_path / "cache" / "teachers" / "tiny-google.safetensors"
    assert done.json["source_sha256"] == source
    assert done.json["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert done.json["parameters"] == card.parameters
    assert done.json["trial_shape"] == [2, 3, 8, 8]
    read, folder = read_card(card.name, module.TeacherCard)
    assert (read.licence, read.origin.fid, read.origin.sha256) == (card.licence, 7.5, source)
    state = network().state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(folder / read.file).items())
    verified = tractbench("teacher", "verify", card.name, "--json").json
    assert [(row["name"], row["trial_mean_absolute"]) for row in verified] == [
        (card.name, done.json["trial_mean_absolute"])
    ]
    listed = {row["name"]: row for row in tractbench("teacher", "list", "--json").json}
    assert listed[card.name]["where"] == "imported"
    assert listed["digits-vp"]["where"] == "shipped"
    assert "origin = {" in tractbench("teacher", "info", card.name).out


def test_the_first_import_decides_the_hash(tractbench, card, tmp_path):
    done = tractbench("teacher", "import", saved(tmp_path / "a.pt"), "--card", card.name)
    assert "publish no hash" in done.out
    other = network()
    other.time[0].bias.data += 1
    again = tractbench("teacher", "import", saved(tmp_path / "b.pt", other), "--card", card.name)
    assert again.code == 2
    assert "expected" in again.err
    assert tractbench("teacher", "verify", card.name).code == 0


def test_a_known_hash_is_held(tractbench, card, tmp_path, monkeypatch):
    known = card.model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(module, "published_teachers", lambda: {known.name: known})
    done = tractbench("teacher", "import", saved(tmp_path / "a.pt"), "--card", card.name)
    assert done.code == 2
    assert "is not 'tiny-google'" in done.err
    assert not (tmp_path / "cache" / "teachers").exists()


def test_a_refused_import_leaves_the_teacher_of_that_name(tractbench, card, tmp_path, monkeypatch):
    assert tractbench("teacher", "import", saved(tmp_path / "a.pt"), "--card", card.name, "--name", "mine").code == 0
    folder = tmp_path / "cache" / "teachers"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    bad = network()
    bad.time[0].bias.data += 1
    refused = tractbench("teacher", "import", saved(tmp_path / "b.pt", bad), "--card", card.name, "--name", "mine")
    assert (refused.code, "expected" in refused.err) == (2, True)
    other = tractbench("teacher", "import", tmp_path / "b.pt", "--card", card.name)
    assert (other.code, "expected" in other.err) == (2, True)
    monkeypatch.setattr(module, "expected_hash", lambda published: None)
    bad.out[2].bias.data += 3e38  # finite, and what it makes is not
    bad.out[2].weight.data += 3e38
    refused = tractbench("teacher", "import", saved(tmp_path / "c.pt", bad), "--card", card.name, "--name", "mine")
    assert (refused.code, "not finite" in refused.err) == (2, True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    done = tractbench("teacher", "import", tmp_path / "b.pt", "--card", card.name, "--name", "mine")
    assert done.code == 0
    assert len(list(folder.glob("*.safetensors"))) == 1
    assert tractbench("teacher", "verify", "mine").code == 0


def test_a_damaged_card_stops_no_other(tractbench, card, tmp_path):
    tractbench("teacher", "import", saved(tmp_path / "a.pt"), "--card", card.name)
    (tmp_path / "cache" / "teachers" / "bad.toml").write_text("parameterisation = \n")
    listed = tractbench("teacher", "list", "--json")
    assert {"tiny-google", "digits-vp"} <= {row["name"] for row in listed.json}
    assert "bad.toml is left out" in listed.err


def ve_file(path, wrapper, monkeypatch, u=None, **arguments):
    """Make the reader find a tiny network in one of EDM's wrappers, and return what was given to it."""
    outputs = {"outputs": 2} if wrapper == "iddpm" else {}
    kwargs = {"channels": 1, "size": 8, "width": 32, "embedding": 32, "multipliers": (1,), "blocks": 1,
              "attention": ()} | outputs  # fmt: skip
    net = build_network("dhariwal_unet", kwargs, torch.Generator().manual_seed(3))
    found = Foreign("edm_pickle", dict(net.state_dict()), "dhariwal_unet", kwargs, True, wrapper, arguments, u)
    monkeypatch.setattr(module, "read_foreign", lambda path, key: found)
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("wrapper", "arguments", "low", "high"),
    [
        ("edm", {}, 0.002, 80.0),
        ("edm", {"sigma_min": 0.01, "sigma_max": 50.0}, 0.01, 50.0),
        ("ve_song", {}, 0.02, 80.0),
        ("iddpm", {}, float(iddpm_levels()[-2]), 80.0),
    ],
)
def test_the_noise_range_is_the_teachers(tractbench, tmp_path, monkeypatch, wrapper, arguments, low, high):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    levels = iddpm_levels()
    u = levels.float() if wrapper == "iddpm" else None
    path = ve_file(tmp_path / "x.pkl", wrapper, monkeypatch, u, **arguments)
    done = tractbench("teacher", "import", path, "--dataset", "digits", "--name", "mine", "--json")
    assert done.code == 0, done.err
    process = teacher_process("mine", VE(8))
    assert (process.sigma_min, process.sigma_max) == (low, high)
    grid = process.sigma(torch.arange(9, dtype=torch.float64) / 8)
    usual = low ** (1 / 7) + np.arange(8) / 7 * (high ** (1 / 7) - low ** (1 / 7))
    expected = usual**7
    if wrapper == "iddpm":
        expected = np.array([min(levels.tolist(), key=lambda level: abs(level - sigma)) for sigma in expected])
    np.testing.assert_allclose(grid.numpy(), [0.0, *expected], rtol=1e-12)
    assert load_teacher("mine", load_dataset("digits"), process).denoiser is not None
    assert (process.key == VE(8).key) == (wrapper == "edm" and not arguments)


def test_more_steps_than_a_teacher_has_levels_are_refused(tractbench, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    path = ve_file(tmp_path / "x.pkl", "iddpm", monkeypatch, iddpm_levels().float())
    assert tractbench("teacher", "import", path, "--dataset", "digits", "--name", "mine").code == 0
    with pytest.raises(module.ConfigError, match="fewer noise levels"):
        teacher_process("mine", VE(1024))


@pytest.mark.parametrize(("method", "fits"), [("ect", False), ("scm", False), ("cd", True), ("tract_edm", True)])
def test_teachers_of_discrete_levels_are_for_methods_of_time_steps(tractbench, tmp_path, monkeypatch, method, fits):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    path = ve_file(tmp_path / "x.pkl", "iddpm", monkeypatch, iddpm_levels().float())
    assert tractbench("teacher", "import", path, "--dataset", "digits", "--name", "mine").code == 0
    run = resolve({"method": method, "dataset": "digits", "nfe": 1, "teacher": "mine"})
    if fits:
        assert identify(*run).process.continuous is False
        return
    with pytest.raises(module.ConfigError, match="'mine' knows some only; choose another teacher"):
        identify(*run)


@pytest.mark.parametrize("schedule", [(40, 1), (20, 1)])
def test_every_step_of_cd_is_one_between_two_levels_that_such_a_teacher_knows(schedule):
    process = VE(40, float(iddpm_levels()[-2]), 80.0, "iddpm")
    (phase,) = CD().phases(schedule)
    u = torch.linspace(0, 1 - 1e-9, 400, dtype=torch.float64)[:, None].expand(-1, 2)
    times = CD().times(u, phase, 0.0, process)
    high, low = process.sigma(times.t), process.sigma(times.t_next)
    assert bool((low < high).all())
    assert set(torch.cat([high, low]).tolist()) <= set(iddpm_levels().tolist())
    assert len(set(high.tolist())) == schedule[0] - 1
    torch.testing.assert_close(low.min(), iddpm_levels()[-2])


@pytest.mark.parametrize(("dataset", "words"), [("digit", "did you mean 'digits'"), ("cifar10", "(1, 8, 8)")])
def test_a_teacher_is_of_a_data_set_that_is_known_and_fits(tractbench, tmp_path, monkeypatch, dataset, words):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    done = tractbench("teacher", "import", ve_file(tmp_path / "x", "edm", monkeypatch), "--dataset", dataset)
    assert (done.code, words in done.err) == (2, True), done.err
    assert not (tmp_path / "cache" / "teachers").exists()


@pytest.mark.parametrize("change", [{"width": 64}, {"blocks": 2}, {"classes": 3}])
def test_another_network_is_refused_and_leaves_nothing(tractbench, card, tmp_path, change):
    done = tractbench("teacher", "import", saved(tmp_path / "a.pt", network(**change)), "--card", card.name)
    assert done.code == 2
    assert "does not fit its network" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "cache" / "teachers").exists()


def test_a_file_that_says_nothing_needs_a_card(tractbench, card, tmp_path):
    done = tractbench("teacher", "import", saved(tmp_path / "a.pt"), "--dataset", "cifar10")
    assert done.code == 2
    assert "--card" in done.err
    assert "no teacher 'tiny-gogle'" in tractbench("teacher", "import", tmp_path / "a.pt", "--card", "tiny-gogle").err
    assert tractbench("teacher", "import", tmp_path / "none.pt", "--card", card.name).code == 2


def test_a_shipped_name_is_not_taken(tractbench, card, tmp_path):
    done = tractbench("teacher", "import", saved(tmp_path / "a.pt"), "--card", card.name, "--name", "digits-vp")
    assert done.code == 2
    assert "digits-vp" in done.err


def test_flax_shapes_must_be_the_cards(tmp_path, card):
    """A flax file tells most arguments by its shapes; here its class layer has no place in the card."""

    def packed(*shape):
        array = np.zeros(shape, np.float32)
        return msgpack.ExtType(1, msgpack.packb([list(shape), "float32", array.tobytes()]))

    def layer(*shape):
        return {"kernel": packed(*shape), "bias": packed(shape[-1])}

    block = {"conv1": layer(3, 3, 32, 32)}
    params = {"conv_in": layer(3, 3, 3, 32), "conv_out": layer(3, 3, 32, 3), "dense0": layer(32, 32),
              "down_0.block_0": block, "class_emb": layer(10, 32)}  # fmt: skip
    (tmp_path / "x").write_bytes(msgpack.packb({"ema_params": params, "step": 0}))
    with pytest.raises(module.DamagedFileError, match=r"multipliers \(1,\), not \(1, 2\), classes 10, not 0"):
        module.import_teacher(tmp_path / "x", card)


def test_download_imports_through_a_mirror(tractbench, card, tmp_path):
    mirror = saved(tmp_path / "mirror.pt").as_uri()
    done = tractbench("teacher", "download", card.name, "--url", mirror, "--quiet")
    assert done.code == 0, done.err
    assert card.licence in done.err
    assert mirror in done.err
    assert list((tmp_path / "cache" / "downloads").glob("[!.]*")) == []
    assert tractbench("teacher", "verify", card.name).code == 0


def test_a_page_in_place_of_a_checkpoint_is_not_kept(tractbench, card, tmp_path):
    (tmp_path / "page.pt").write_text("<html>Quota exceeded, try again later</html>")
    done = tractbench("teacher", "download", card.name, "--url", (tmp_path / "page.pt").as_uri(), "--quiet")
    assert (done.code, "tiny.pt is a web page; give" in done.err) == (2, True)
    assert "page.pt was not kept" in done.err
    done = tractbench("teacher", "download", card.name, "--url", saved(tmp_path / "a.pt").as_uri(), "--quiet")
    assert done.code == 0, done.err


def test_offline_says_what_to_fetch(tractbench, card, tmp_path):
    done = tractbench("teacher", "download", card.name, "--quiet")
    assert done.code == 2
    assert card.url in done.err
    assert str(tmp_path / "cache" / "downloads" / "tiny.pt") in done.err


def test_what_nobody_publishes_is_not_downloaded(tractbench):
    done = tractbench("teacher", "download", "google-cifar10-port")
    assert done.code == 2
    assert "teacher import FILE --card google-cifar10-port" in done.err


def test_a_teacher_that_is_not_here_names_its_download(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path))
    with pytest.raises(module.ConfigError, match="teacher download google-cifar10"):
        read_card("google-cifar10", module.TeacherCard)


def test_damage_is_found_by_verify(tractbench, card, tmp_path):
    tractbench("teacher", "import", saved(tmp_path / "a.pt"), "--card", card.name)
    weights = tmp_path / "cache" / "teachers" / "tiny-google.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    done = tractbench("teacher", "verify", card.name)
    assert done.code == 2
    assert "damaged" in done.err


def test_info_of_a_published_teacher_shows_its_licence(tractbench):
    shown = tomllib.loads(tractbench("teacher", "info", "edm-imagenet64-adm").out)
    assert shown["licence"].startswith("CC BY-NC-SA 4.0")
    assert [figure["value"] for figure in shown["figures"]] == [1.36]


def test_every_shipped_teacher_verifies(tractbench):
    names = [row["name"] for row in tractbench("teacher", "verify", "--json").json]
    assert {"digits-vp", "digits-ve"} <= set(names)
