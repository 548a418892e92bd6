import json
import math

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from tractbench.cli.evaluate import evaluate as verb
from tractbench.datasets.base import Dataset
from tractbench.datasets.cifar10 import CIFAR10
from tractbench.datasets.workload import Workload
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation import inception_scorer, reference
from tractbench.evaluation.evaluate import Settings, evaluate, protocols_of
from tractbench.evaluation.extractors.inception import SHA256, Features
from tractbench.evaluation.images import open_samples
from tractbench.evaluation.protocols import PROTOCOLS, load_protocol
from tractbench.evaluation.sample_set import SampleSet
from tractbench.evaluation.scorer import make_scorer
from tractbench.progress import Progress
from tractbench.registry import load_dataset

FID = ("fid",)


@pytest.fixture
def cli(capfd):
    """Runs ``tractbench evaluate`` and returns what it prints."""
    app = typer.Typer()
    app.command()(verb)

    def run(*arguments):
        capfd.readouterr()
        app([str(a) for a in arguments], standalone_mode=False)
        return capfd.readouterr().out

    return run


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def save_digits(folder, images):
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(folder / f"{index:05d}.png")
    return folder


def test_a_folder_of_digits_scores_like_the_images_in_it(cli, digits, tmp_path):
    folder = save_digits(tmp_path / "digits", digits.held_out)
    found = json.loads(cli(folder, "--dataset", "digits", "--json", "-q"))["evaluations"]
    with digits.computing():
        expected = make_scorer(digits, load_protocol("raw"), 500, 500).score([digits.held_out])
    assert len(found) == 1
    finite = {name: value if math.isfinite(value) else None for name, value in expected.items()}  # JSON has no infinity
    assert found[0]["scores"] == {name: [value] for name, value in finite.items()}
    assert found[0]["quoted"] == expected["fd_pixel"]
    manifest = found[0]["manifest"]
    assert manifest["samples"] == 500
    assert manifest["quantise"] == "given"
    assert manifest["labels"] == "unknown"
    assert manifest["deviations"] == []
    assert set(manifest["versions"]) >= {"tractbench", "torch", "torch-fidelity"}


def test_floats_are_quantised_and_every_format_is_the_same_set(cli, digits, tmp_path):
    floats = digits.decode(digits.held_out) + 0.01 * (digits.held_out < 8) - 0.01 * (digits.held_out >= 8)
    np.savez(tmp_path / "a.npz", floats.permute(0, 2, 3, 1).numpy())
    torch.save(digits.held_out.clone(), tmp_path / "a.pt")
    save_digits(tmp_path / "a", digits.held_out)
    found = [
        json.loads(cli(tmp_path / n, "--dataset", "digits", "--json"))["evaluations"][0] for n in ("a.npz", "a.pt", "a")
    ]
    assert len({f["manifest"]["images"] for f in found}) == 1
    assert len({json.dumps(f["scores"]) for f in found}) == 1
    assert [f["manifest"]["quantise"] for f in found] == ["round", "given", "given"]


def test_a_table_says_what_its_figures_are(cli, digits, tmp_path):
    torch.save(digits.held_out.clone(), tmp_path / "a.pt")
    out = cli(tmp_path / "a.pt", "--dataset", "digits", "-q", "--out", tmp_path / "scores.json")
    assert out == ""
    out = cli(tmp_path / "a.pt", "--dataset", "digits")
    assert "raw: fd_pixel 0.4056, mean over 1 sets of 500 samples; resize none, quantise given" in out
    assert json.loads((tmp_path / "scores.json").read_text())["evaluations"][0]["protocol"] == "raw"


def test_levels_that_the_data_do_not_have(cli, tmp_path):
    torch.save(torch.full((500, 1, 8, 8), 255, dtype=torch.uint8), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="grey level 255, digits ends at 16"):
        cli(tmp_path / "a.pt", "--dataset", "digits", "-q")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "add --dataset NAME"),
        (("--dataset", "digits"), "no samples given"),
        (("missing", "--dataset", "digits"), "no samples at missing"),
        (("a.pt", "--dataset", "digit"), "did you mean 'digits'"),
        (("a.pt", "--dataset", "digits", "--protocol", "rw"), "did you mean 'raw'"),
        (("a.pt", "--dataset", "digits", "--protocol", "tract"), "needs RGB images"),
        (("a.pt", "--dataset", "digits", "--metrics", "fd_pixl"), "did you mean 'fd_pixel'"),
        (("rgb.pt", "--dataset", "digits", "--allow-deviation"), "holds 8x8 RGB images, digits has 8x8 grey"),
        (("empty.pt", "--dataset", "digits"), "holds no sample"),
        (("a.pt", "--dataset", "mixture2d"), "8x8 grey"),
        (("--self-check", "a.pt"), "leave samples and 'all' out"),
        (("--self-check", "--dataset", "mixture2d"), "no real images"),
    ],
)
def test_a_mistake_is_one_line(cli, tmp_path, arguments, message):
    for name, shape in (("a", (20, 1, 8, 8)), ("rgb", (20, 3, 8, 8)), ("empty", (0, 1, 8, 8))):
        torch.save(torch.zeros(shape, dtype=torch.uint8), tmp_path / f"{name}.pt")
    with pytest.raises(ConfigError, match=message) as caught:
        cli(*arguments, "-q")
    assert "\n" not in str(caught.value)


def test_self_check_needs_no_download(cli, digits):
    found = json.loads(cli("--self-check", "--json", "-q"))
    assert found["dataset"] == "digits"
    assert [check["passed"] for check in found["checks"]] == [None, True, True, True]
    assert found["checks"][0]["value"] == pytest.approx(1.44, abs=0.2)
    assert "torch-fidelity" in cli("--self-check")


class Colours(Dataset):
    name = "colours"
    shape = (3, 4, 4)
    workload = Workload(processes=("vp",), protocol="tract", tiers={"only": {}})

    def __init__(self):
        random = torch.Generator().manual_seed(0)
        self.__dict__["train"] = torch.randint(0, 256, (200, 3, 4, 4), dtype=torch.uint8, generator=random)
        self.__dict__["held_out"] = torch.randint(0, 256, (100, 3, 4, 4), dtype=torch.uint8, generator=random)


class Fake:
    def __init__(self, weights=None, device="cpu", progress=None):
        pass

    def __call__(self, images, resize):
        scale = {"torch": 1.0, "tensorflow": 2.0, "clean": 3.0}[resize]
        pool = scale * (images.float() / 255).flatten(1)[:, :6]
        return Features(pool, 3 * pool)


@pytest.fixture
def colours(monkeypatch, tmp_path):
    """A data set with a network of six features and protocols of 200 samples."""
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reference, "DIMENSIONS", 6)
    monkeypatch.setattr(inception_scorer, "Inception", Fake)
    return Colours()


def drawn(count, size=4, seed=1, floats=False):
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)
    if floats:
        images = (images.double() + 0.7).clamp(max=255) / 127.5 - 1
    return SampleSet("drawn", count, (3, size, size), floats, lambda: iter(images.split(33))), images


def small(name="tract", samples=100):
    return PROTOCOLS[name].model_copy(update={"samples": samples})


def scored(drawn, dataset, protocol=None, **settings):
    return evaluate(drawn, dataset, protocol or small(), Settings(**{"metrics": FID, **settings}), Progress())


def test_sets_are_scored_apart_and_quoted_as_the_protocol_does(colours):
    samples, images = drawn(300)
    found = {name: scored(samples, colours, small(name)) for name in ("tract", "edm")}
    for name, evaluation in found.items():
        scorer = make_scorer(colours, small(name).model_copy(update={"metrics": FID}), 500, 100)
        apart = tuple(scorer.score([part])["fid"] for part in images.split(100))
        assert evaluation.scores["fid"] == apart
        assert evaluation.manifest.sets == 3
        assert len(set(apart)) == 3
    assert found["tract"].quoted == pytest.approx(sum(found["tract"].scores["fid"]) / 3)
    assert found["edm"].quoted == min(found["edm"].scores["fid"])


def test_the_number_of_samples_is_the_protocols(colours):
    for count, message in ((50, "50 samples instead of 100"), (130, "the last 30 of 130 samples are left out")):
        with pytest.raises(ConfigError, match=f"{message}.*--allow-deviation"):
            scored(drawn(count)[0], colours)
        found = scored(drawn(count)[0], colours, allow_deviation=True)
        assert found.manifest.deviations == (message,)
    with pytest.raises(ConfigError, match="50 samples in a set instead of 100"):
        scored(drawn(100)[0], colours, samples=50)
    found = scored(drawn(100)[0], colours, samples=50, allow_deviation=True)
    assert (found.manifest.samples, found.manifest.sets) == (50, 2)


def test_adm_takes_one_set(colours):
    with pytest.raises(ConfigError, match="the last 100 of 200"):
        scored(drawn(200)[0], colours, small("adm"))


def test_another_size_is_a_deviation(colours):
    with pytest.raises(ConfigError, match="images are 5x5 RGB, colours has 4x4 RGB"):
        scored(drawn(100, size=5)[0], colours)
    found = scored(drawn(100, size=5)[0], colours, allow_deviation=True)
    assert found.manifest.deviations == ("images are 5x5 RGB, colours has 4x4 RGB",)


def test_too_few_samples_for_a_metric_say_so_before_anything_is_computed(colours, tmp_path):
    with pytest.raises(
        ConfigError, match="fid_infinity needs 150 samples, there are 100; leave it out: --metrics fid,"
    ):
        scored(drawn(100)[0], colours, metrics=None)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ConfigError, match="kid needs 1,000 training images, there are 200"):
        scored(drawn(1000)[0], colours, small(samples=1000), metrics=("kid",))


def test_floats_are_quantised_as_the_protocol_says(colours):
    samples, images = drawn(100, floats=True)
    rounded, truncated = (scored(samples, colours, small(name)).manifest for name in ("edm", "adm"))
    assert (rounded.quantise, truncated.quantise) == ("round", "truncate")
    assert rounded.images != truncated.images
    grey = ((images + 1) * 127.5).floor().to(torch.uint8)
    as_given = SampleSet("grey", 100, (3, 4, 4), False, lambda: iter([grey]))
    assert scored(as_given, colours, small("adm")).manifest.images == truncated.images


def test_all_protocols_of_a_data_set(colours, digits):
    assert [p.name for p in protocols_of(colours, "all")] == ["tract", "edm", "adm", "clean"]
    assert [p.name for p in protocols_of(digits, "all")] == ["raw"]
    assert [p.name for p in protocols_of(colours, None)] == ["tract"]


def test_a_manifest_says_everything(colours):
    found = scored(drawn(100)[0], colours, labels="uniform", seeds=(0,)).manifest
    assert found.basis.verified
    assert found.basis.weights == {"inception": SHA256}
    assert found.basis.reference_images == 200
    assert (found.resize, found.quantise, found.reported) == ("torch", "given", "mean")
    assert (found.labels, found.seeds, found.protocol_sets) == ("uniform", (0,), 5)
    with pytest.raises(ValueError, match="frozen"):
        found.labels = "other"
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_other_weights_are_marked_not_a_fid(colours, tmp_path, cli, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"other weights")
    found = scored(drawn(100)[0], colours, weights=tmp_path / "w.pth")
    assert list(found.scores) == ["fd_unverified"]
    assert not found.manifest.basis.verified
    monkeypatch.setattr("tractbench.registry.load_dataset", lambda name: colours)
    torch.save(drawn(100)[1], tmp_path / "a.pt")
    options = ("--dataset", "colours", "--samples", "100", "--metrics", "fid", "--allow-deviation")
    out = cli(tmp_path / "a.pt", *options, "--weights", tmp_path / "w.pth", "--protocol", "all")
    assert out.count("NOT A FID") == 4
    assert "no figure compares with one in another column" in out
    assert out.count("DEVIATION: 100 samples in a set instead of 50,000") == 4


def test_imported_statistics_leave_out_what_needs_features(colours, tmp_path):
    np.savez(tmp_path / "theirs.npz", mu=np.full(6, 0.5), sigma=np.eye(6) / 12)
    found = scored(drawn(200)[0], colours, small(samples=200), metrics=None, statistics=tmp_path / "theirs.npz")
    assert list(found.scores) == ["fid", "fid_infinity", "inception_score"]
    assert found.manifest.basis.statistics.startswith("imported from theirs.npz ")


def test_samples_need_no_data_set_here_where_statistics_are_given(colours, tmp_path):
    np.savez(tmp_path / "theirs.npz", mu=np.full(6, 0.5), sigma=np.eye(6) / 12)
    data = CIFAR10()
    with pytest.raises(ConfigError, match="no train images here"):
        scored(drawn(200, 32)[0], data)
    found = scored(drawn(200, 32)[0], data, small(samples=200), metrics=None, statistics=tmp_path / "theirs.npz")
    assert list(found.scores) == ["fid", "fid_infinity", "inception_score"]
    assert found.manifest.deviations == ()


def test_a_set_that_ends_early_is_damaged(colours):
    _, images = drawn(60)
    with pytest.raises(DamagedFileError, match="fewer samples than it says"):
        scored(SampleSet("cut", 100, (3, 4, 4), False, lambda: iter([images])), colours)


def test_a_set_on_disk_is_opened_by_its_kind(tmp_path, colours):
    torch.save(drawn(100)[1], tmp_path / "a.pt")
    on_disk, in_memory = scored(open_samples(tmp_path / "a.pt"), colours), scored(drawn(100)[0], colours)
    assert on_disk.scores == in_memory.scores
    assert on_disk.manifest.images == in_memory.manifest.images


def test_a_finished_run_is_scored_again_to_the_same_numbers(tractbench, tmp_path):
    for method, steps in (("tract", ("--schedule", "16,4,1")), ("ddim", ("--set", "grid_steps=16"))):
        run = ("run", "--method", method, "--dataset", "digits", "--tier", "smoke", *steps)
        made = tractbench(*run, "--json", "-q").json
        again = tractbench("evaluate", made["run_dir"], "--json", "-q")
        assert again.code == 0, again.err
        (found,) = again.json["evaluations"]
        assert found["scores"] == {name: m["per_seed"] for name, m in made["metrics"].items()}
        assert found["manifest"]["seeds"] == [0, 1, 2]
    other = tractbench("evaluate", made["run_dir"], "--dataset", "cifar10")
    assert other.code == 2
    assert "is of 'digits'" in other.err
