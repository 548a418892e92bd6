import hashlib
from functools import partial

import numpy as np
import pytest
import torch

from tractbench.datasets.base import Dataset
from tractbench.datasets.workload import Workload
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation import inception_scorer, reference
from tractbench.evaluation.extractors.inception import SHA256, Features, Weights
from tractbench.evaluation.extractors.resize import RESIZES
from tractbench.evaluation.fidelity import kernel_distance
from tractbench.evaluation.inception_scorer import InceptionScorer, unverified_name
from tractbench.evaluation.protocols import INCEPTION_METRICS, PROTOCOLS, load_protocol
from tractbench.evaluation.reference import import_reference, statistics_key
from tractbench.evaluation.scorer import make_scorer, reference_hash
from tractbench.io import files
from tractbench.progress import Progress, Task
from tractbench.registry import load_dataset

DIMENSIONS = 12
OURS = {"tract": "mean", "edm": "minimum", "adm": "single", "clean": "mean"}


class Colours(Dataset):
    """1,203 random pictures."""

    name = "colours"
    shape = (3, 4, 4)
    workload = Workload(processes=("vp",), protocol="tract", tiers={"only": {}})

    def __init__(self, seed=0):
        random = torch.Generator().manual_seed(seed)
        self.__dict__["train"] = torch.randint(0, 256, (1203, 3, 4, 4), dtype=torch.uint8, generator=random)
        self.__dict__["held_out"] = torch.randint(0, 256, (1000, 3, 4, 4), dtype=torch.uint8, generator=random)


class Fake:
    """A network of a few features that counts what it sees."""

    def __init__(self, weights=None, device="cpu", progress=None):
        self.batches = []

    def __call__(self, images, resize):
        self.batches.append(len(images))
        scale = {"torch": 1.0, "tensorflow": 2.0, "clean": 3.0}[resize]
        pool = scale * (images.float() / 255).flatten(1)[:, :DIMENSIONS]
        return Features(pool, 3 * pool[:, :10])


@pytest.fixture(autouse=True)
def _small_network(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reference, "DIMENSIONS", DIMENSIONS)
    monkeypatch.setattr(inception_scorer, "Inception", Fake)
    monkeypatch.setattr(inception_scorer, "kernel_distance", partial(kernel_distance, subsets=4))


@pytest.fixture
def colours():
    return Colours()


def test_protocols_are_those_of_the_papers():
    found = {p.name: (p.resize, p.quantise, p.reference, p.samples, p.seeds) for p in PROTOCOLS.values() if p.inception}
    assert found == {
        "tract": ("torch", "round", "train", 50_000, 5),
        "edm": ("tensorflow", "round", "train", 50_000, 3),
        "adm": ("tensorflow", "truncate", "train", 50_000, 1),
        "clean": ("clean", "round", "train", 50_000, 10),
    }
    assert {name: PROTOCOLS[name].reported for name in OURS} == OURS
    assert {p.resize for p in PROTOCOLS.values()} <= {*RESIZES, "none"}
    assert all(PROTOCOLS[name].metrics[0] == "fid" for name in OURS)


def test_a_protocol_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_protocol("tract").samples = 10


def test_an_unknown_protocol_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tract'"):
        load_protocol("trakt")


def test_the_quoted_number_is_the_protocols():
    scores = (3.0, 1.0, 2.5)
    assert load_protocol("tract").quoted(scores) == pytest.approx(6.5 / 3)
    assert load_protocol("edm").quoted(scores) == 1.0
    assert load_protocol("adm").quoted(scores[:1]) == 3.0
    with pytest.raises(ConfigError, match="give one sampling seed"):
        load_protocol("adm").quoted(scores)


def test_rounding_and_truncation_of_the_256_levels(colours):
    levels = torch.arange(256, dtype=torch.float64)
    images = (levels + 0.7).div(127.5).sub(1).reshape(1, 1, 16, 16)
    rounded = load_protocol("edm").quantised(images, colours).flatten()
    truncated = load_protocol("adm").quantised(images, colours).flatten()
    assert torch.equal(rounded.double(), (levels + 1).clamp(max=255))
    assert torch.equal(truncated.double(), levels)
    outside = torch.tensor([[[[-1.5, 1.5]]]])
    for name in OURS:
        assert load_protocol(name).quantised(outside, colours).flatten().tolist() == [0, 255]


def test_what_decides_scores_on_digits_and_analytic_data_has_not_moved():
    # reference hashes of results that exist: sha256 of what they were made of, by hand
    digits = load_dataset("digits")
    raw = load_protocol("raw")
    assert raw.key == {
        "name": "raw", "resize": "none", "quantise": "round", "reference": "train", "reported": "mean",
        "metrics": ["fd_pixel", "fd_feature", "fd_pixel_held_out", "fd_feature_held_out", "nn_ratio"],
    }  # fmt: skip
    assert make_scorer(digits, raw, 100, 500).reference_hash.startswith("7825952058eb")
    mixture = make_scorer(load_dataset("mixture2d"), load_protocol("exact"), 100, 500)
    assert mixture.reference_hash.startswith("b4c7d078f159")


def scorer(dataset, name="tract", sha256=SHA256, metrics=INCEPTION_METRICS, **options):
    protocol = load_protocol(name).model_copy(update={"metrics": metrics})
    return InceptionScorer(dataset, protocol, Weights(None, sha256), **options)


def test_real_images_score_as_such(colours):
    scores = scorer(colours).score([colours.train])
    assert tuple(scores) == INCEPTION_METRICS
    assert scores["fid"] == pytest.approx(0, abs=1e-12)
    assert scores["precision"] == scores["recall"] == 1
    fresh = scorer(colours).score([colours.held_out])
    assert fresh["fid"] > 1e-4
    assert abs(fresh["fid_infinity"]) < fresh["fid"]
    assert abs(fresh["kid"]) < 1e-2
    assert fresh["inception_score"] > 1


def test_scores_do_not_depend_on_how_images_come(colours):
    whole = scorer(colours).score([colours.held_out])
    for size in (1, 7, 50, 333):
        assert scorer(colours).score(colours.held_out.split(size)) == whole


def test_fid_alone_holds_no_features(colours, monkeypatch):
    only = scorer(colours, metrics=("fid",))
    only.prepare()
    cat, held = torch.cat, []
    monkeypatch.setattr(torch, "cat", lambda parts: held.append(sum(map(len, parts))) or cat(parts))
    assert list(only.score(colours.held_out.split(50))) == ["fid"]
    assert max(held) <= 50


def test_reference_statistics_are_computed_once_for_equal_resizes(colours, monkeypatch):
    counts = []
    for name in ("tract", "edm", "adm", "clean", "tract"):
        mine = scorer(colours, name)
        mine.prepare()
        counts.append(sum(mine.network.batches))
    assert counts == [1203, 1203, 0, 1203, 0]


def test_cached_statistics_give_the_same_bits(colours):
    first = scorer(colours).score([colours.held_out])
    again = scorer(colours)
    assert again.score([colours.held_out]) == first
    assert again.reference.gaussian.known_root is not None
    fitted = again.reference.gaussian
    torch.testing.assert_close(fitted.root @ fitted.root.T, fitted.covariance, rtol=1e-12, atol=1e-14)


def test_the_key_of_statistics_holds_all_that_decides_them(colours):
    keys = {
        statistics_key(colours, "torch", SHA256),
        statistics_key(colours, "clean", SHA256),
        statistics_key(colours, "torch", "0" * 64),
        statistics_key(Colours(seed=1), "torch", SHA256),
    }
    fewer = Colours()
    fewer.__dict__["train"] = fewer.train[:-1]
    fewer.__dict__["fingerprint"] = colours.fingerprint
    keys.add(statistics_key(fewer, "torch", SHA256))
    assert len(keys) == 5


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("pattern", ["*.npz", "*.npy", "*.sha256"])
@pytest.mark.parametrize("damage", [flipped, lambda content: content[:-1], lambda content: b""])
def test_a_damaged_cache_is_computed_again_to_the_same_numbers(colours, tmp_path, pattern, damage):
    expected = scorer(colours).score([colours.held_out])
    path = next((tmp_path / "cache" / "statistics").glob(pattern))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    told = Told()
    again = scorer(colours, progress=told)
    assert again.score([colours.held_out]) == expected
    assert sum(again.network.batches) == 1203 + 1000
    (message,) = told.messages
    assert "computed again" in message
    assert path.read_bytes() == whole
    silent = Told()
    scorer(colours, progress=silent).prepare()
    assert not silent.messages


@pytest.mark.parametrize("pattern", ["*.npz", "*.npy", "*.sha256"])
def test_a_missing_part_of_the_cache_is_computed_again(colours, tmp_path, pattern):
    expected = scorer(colours).score([colours.held_out])
    next((tmp_path / "cache" / "statistics").glob(pattern)).unlink()
    assert scorer(colours).score([colours.held_out]) == expected


def test_statistics_of_other_scoring_code_are_not_found(colours, monkeypatch):
    key = statistics_key(colours, "torch", SHA256)
    monkeypatch.setattr(reference, "SCORING_VERSION", reference.SCORING_VERSION + 1)
    assert statistics_key(colours, "torch", SHA256) != key


def test_an_interrupted_pass_leaves_no_statistics(colours, tmp_path):
    class Broken(Fake):
        def __call__(self, images, resize):
            if len(self.batches) == 3:
                raise KeyboardInterrupt
            return super().__call__(images, resize)

    mine = scorer(colours)
    mine.__dict__["network"] = Broken()
    with pytest.raises(KeyboardInterrupt):
        mine.prepare()
    assert [path.suffix for path in (tmp_path / "cache" / "statistics").iterdir()] in ([], [".lock"])


def test_the_pass_over_the_training_images_is_reported(colours):
    class Bar(Progress, Task):
        done = total = 0

        def task(self, description, total, unit, done=0):
            from contextlib import nullcontext

            self.total = total
            return nullcontext(self)

        def advance(self, amount=1, note=""):
            self.done += amount

    bar = Bar()
    scorer(colours, progress=bar).prepare()
    assert bar.done == bar.total == 1203


def test_unverified_weights_give_no_fid(colours):
    mine = scorer(colours, sha256="0" * 64)
    scores = mine.score([colours.held_out])
    assert tuple(scores) == mine.protocol.metrics
    assert scores["fd_unverified"] > 0
    assert not any(name.startswith("fid") for name in scores)
    assert not set(scores) & set(INCEPTION_METRICS)
    assert not mine.basis.verified
    assert mine.reference_hash != scorer(colours).reference_hash
    assert unverified_name("fid_infinity") == "fd_infinity_unverified"


def test_imported_statistics_are_named_and_used(colours, tmp_path):
    computed = scorer(colours).reference.gaussian
    path = tmp_path / "theirs.npz"
    np.savez(path, mu=computed.mean.numpy(), sigma=computed.covariance.numpy())
    metrics = ("fid", "fid_infinity", "inception_score")
    mine = scorer(colours, metrics=metrics, statistics=path)
    own = scorer(colours, metrics=metrics)
    found = mine.score([colours.held_out])
    assert found["fid"] == pytest.approx(own.score([colours.held_out])["fid"], rel=1e-9)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert mine.basis.statistics == f"imported from theirs.npz {digest}"
    assert mine.basis.reference_images is None
    assert mine.reference_hash != own.reference_hash


def test_imported_statistics_have_no_features(colours, tmp_path):
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(DIMENSIONS), sigma=np.eye(DIMENSIONS))
    mine = make_scorer(colours, load_protocol("tract"), 500, 5000, statistics=tmp_path / "theirs.npz")
    assert mine.protocol.metrics == ("fid", "fid_infinity", "inception_score")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3), "sigma": np.eye(3)}, r"mu \(3,\)"),
        ({"mu": np.zeros(DIMENSIONS)}, "sigma"),
        ({"mu": np.full(DIMENSIONS, np.nan), "sigma": np.eye(DIMENSIONS)}, "not finite"),
        ({"mu": np.zeros(DIMENSIONS), "sigma": np.triu(np.ones((DIMENSIONS, DIMENSIONS)))}, "not symmetric"),
        ({"mu": np.array([{}], dtype=object), "sigma": np.eye(DIMENSIONS)}, "holds no statistics"),
    ],
)
def test_bad_statistics_are_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DamagedFileError, match=message) as caught:
        import_reference(tmp_path / "bad.npz")
    assert "\n" not in str(caught.value)


def test_statistics_that_are_no_npz(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(DamagedFileError, match="mu and sigma"):
        import_reference(tmp_path / "bad.npz")
    with pytest.raises(ConfigError, match="no statistics at"):
        import_reference(tmp_path / "missing.npz")


class Unread(Dataset):
    """A data set of a manifest: who reads an image fails."""

    name = "unread"
    shape = (3, 4, 4)
    workload = Workload(processes=("vp",), tiers={"small": {}}, protocol="tract", features="digits-classifier")
    train_count = 50_000
    fingerprint = "ab" * 32

    @property
    def train(self):
        raise AssertionError("images are read")

    held_out = train


def nothing(*arguments, **settings):
    raise AssertionError("something is computed")


@pytest.fixture
def _only_identified(monkeypatch):
    from tractbench.evaluation import exact_scorer, image_scorer
    from tractbench.evaluation.extractors import classifier

    monkeypatch.setattr(inception_scorer, "Inception", nothing)
    monkeypatch.setattr(inception_scorer, "dataset_reference", nothing)
    monkeypatch.setattr(inception_scorer, "import_reference", nothing)
    monkeypatch.setattr(classifier, "load_network", nothing)
    monkeypatch.setattr(exact_scorer, "RunningMoments", nothing)
    monkeypatch.setattr(image_scorer, "RunningMoments", nothing)


@pytest.mark.usefixtures("_only_identified")
def test_a_reference_is_identified_without_computing_anything(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"weights")
    np.savez(tmp_path / "s.npz", mu=np.zeros(DIMENSIONS), sigma=np.eye(DIMENSIONS))
    tract, raw, exact = map(load_protocol, ("tract", "raw", "exact"))
    given = {"weights": tmp_path / "w.pth", "statistics": tmp_path / "s.npz"}
    found = {
        reference_hash(Unread(), tract, samples=50_000),
        reference_hash(Unread(), tract, samples=200),  # fewer metrics
        reference_hash(Unread(), tract, samples=50_000, weights=given["weights"]),
        reference_hash(Unread(), tract, samples=50_000, statistics=given["statistics"]),
        reference_hash(Unread(), tract, samples=50_000, **given),
        reference_hash(Unread(), load_protocol("edm"), samples=50_000),
        reference_hash(Unread(), raw, samples=500),
        reference_hash(load_dataset("mixture2d"), exact, samples=5000),
        reference_hash(load_dataset("gaussian:3"), exact, samples=5000),
    }
    assert len(found) == 9


@pytest.mark.usefixtures("_only_identified")
def test_a_given_file_is_hashed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    hashed = []
    true = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: hashed.append(path) or true(path))
    path = tmp_path / "w.pth"
    path.write_bytes(b"weights")
    found = {reference_hash(Unread(), load_protocol("tract"), samples=5000, weights=path) for _ in range(20)}
    assert (len(found), len(hashed)) == (1, 1)
    path.write_bytes(b"other weights")
    found.add(reference_hash(Unread(), load_protocol("tract"), samples=5000, weights=path))
    assert (len(found), len(hashed)) == (2, 2)
