import hashlib
from functools import partial

import numpy as np
import pytest
import torch

from tractbench.datasets.base import Dataset
from tractbench.datasets.workload import Workload
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.evaluation import inception_scorer, reference
from tractbench.evaluation.fidelity import kernel_distance
from tractbench.evaluation.frechet import frechet_distance
from tractbench.evaluation.inception import SHA256, Features, Weights
from tractbench.evaluation.inception_scorer import InceptionScorer, unverified_name
from tractbench.evaluation.metrics import make_scorer
from tractbench.evaluation.protocols import INCEPTION_METRICS, PROTOCOLS, load_protocol
from tractbench.evaluation.reference import import_reference, regrouped, statistics_key
from tractbench.evaluation.resize import RESIZES
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
    monkeypatch.setattr(inception_scorer, "DIMENSIONS", DIMENSIONS)
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
    assert mixture.reference_hash.startswith("fa2ce1889502")


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


def test_a_damaged_cache_says_so(colours, tmp_path):
    scorer(colours).prepare()
    for pattern in ("*.npz", "*.npy"):
        path = next((tmp_path / "cache" / "statistics").glob(pattern))
        whole = path.read_bytes()
        path.write_bytes(whole[:100])
        with pytest.raises(DamagedFileError, match="only a cache"):
            scorer(colours).prepare()
        path.write_bytes(whole)


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
    assert not list((tmp_path / "cache" / "statistics").iterdir())


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


def test_grey_data_have_no_fid():
    with pytest.raises(ConfigError, match=r"needs RGB images of 256 grey levels.*--protocol raw"):
        make_scorer(load_dataset("digits"), load_protocol("tract"), 500, 5000)


def test_data_without_features_have_no_raw_score(colours):
    with pytest.raises(ConfigError, match="--protocol tract"):
        make_scorer(colours, load_protocol("raw"), 500, 5000)


def test_inception_options_are_refused_where_nothing_uses_them(tmp_path):
    with pytest.raises(ConfigError, match="leave it out"):
        make_scorer(load_dataset("digits"), load_protocol("raw"), 500, 5000, weights=tmp_path / "w.pth")


def test_a_run_of_few_samples_has_the_metrics_that_they_allow(colours):
    few = make_scorer(colours, load_protocol("tract"), 500, 200)
    assert few.protocol.metrics == ("fid", "fid_infinity", "precision", "recall", "inception_score")
    assert make_scorer(colours, load_protocol("tract"), 500, 50_000).protocol.metrics == INCEPTION_METRICS
    colours.__dict__["train"] = colours.train[:500]
    assert "kid" not in make_scorer(colours, load_protocol("tract"), 500, 50_000).protocol.metrics


def test_statistics_do_not_load_more_than_is_kept(colours, monkeypatch):
    monkeypatch.setattr(reference, "KEPT", 100)
    mine = scorer(colours, metrics=("fid", "precision", "recall"))
    assert mine.reference.features.shape == (100, DIMENSIONS)
    index = np.unique(np.linspace(0, 1202, 100).astype(int))
    expected = (colours.train.float() / 255).flatten(1)[index, :DIMENSIONS]
    assert torch.equal(mine.reference.features, expected)
    whole = Fake()(colours.train, "torch").pool.double()
    torch.testing.assert_close(mine.reference.gaussian.covariance, torch.cov(whole.T), rtol=1e-10, atol=1e-12)
    assert frechet_distance(mine.reference.gaussian, mine.reference.gaussian) == pytest.approx(0, abs=1e-12)


def test_regrouping_keeps_every_row_in_order():
    rows = torch.arange(103)
    for size in (1, 10, 103, 200):
        for split in (1, 3, 50, 103):
            found = list(regrouped(rows.split(split), size))
            assert torch.equal(torch.cat(found), rows)
            assert {len(part) for part in found[:-1]} <= {size}
