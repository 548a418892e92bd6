"""More feature spaces than a protocol's own: which scores there are, that they are right, and that the rest stays."""

from functools import partial

import pytest
import torch

from tractbench import plugins
from tractbench.config.resolve import resolve
from tractbench.datasets.base import Dataset
from tractbench.datasets.workload import Workload
from tractbench.errors import ConfigError
from tractbench.evaluation import inception_scorer, reference
from tractbench.evaluation.extractors.base import Extractor
from tractbench.evaluation.extractors.inception import Features
from tractbench.evaluation.extractors.pixel import PixelExtractor
from tractbench.evaluation.fidelity import check_metrics, kernel_distance, moments
from tractbench.evaluation.frechet import frechet_distance
from tractbench.evaluation.mmd import discrepancy, kernel_mean
from tractbench.evaluation.neighbours import RealImages
from tractbench.evaluation.protocols import NEIGHBOUR_METRICS, load_protocol, with_additions
from tractbench.evaluation.scorer import make_scorer, reference_hash
from tractbench.pipeline.cell import identify
from tractbench.pipeline.needs import files_needed
from tractbench.progress import Progress
from tractbench.registry import load_dataset

pytestmark = pytest.mark.usefixtures("one_thread")
DIMENSIONS = 12


class Colours(Dataset):
    """Random pictures."""

    name = "colours"
    shape = (3, 4, 4)
    workload = Workload(processes=("vp",), protocol="tract", tiers={"only": {}})

    def __init__(self, held_out=200):
        random = torch.Generator().manual_seed(0)
        self.__dict__["train"] = torch.randint(0, 256, (1003, 3, 4, 4), dtype=torch.uint8, generator=random)
        self.__dict__["held_out"] = torch.randint(0, 256, (held_out, 3, 4, 4), dtype=torch.uint8, generator=random)


class Fake:
    """An Inception network of a few features."""

    def __init__(self, *ignored):
        pass

    def __call__(self, images, resize):
        pool = (images.float() / 255).flatten(1)[:, :DIMENSIONS]
        return Features(pool, 3 * pool[:, :10])


class Rows(Extractor):
    """Stands for CLIP: means of rows."""

    name = "clip"
    hash = "rows"
    operations = 7
    prepared: tuple[str, ...] = ()

    def prepare(self, device, progress):
        type(self).prepared += (device,)

    def __call__(self, grey):
        return self.dataset.decode(grey).mean(-1).flatten(1)

    @classmethod
    def missing(cls):
        return "far away"


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(reference, "DIMENSIONS", DIMENSIONS)
    monkeypatch.setattr(inception_scorer, "Inception", Fake)
    monkeypatch.setattr(inception_scorer, "kernel_distance", partial(kernel_distance, subsets=2))
    monkeypatch.setattr("tractbench.evaluation.extractors.clip.CLIP", Rows)
    plugins.forget()  # classes are remembered by name
    yield
    plugins.forget()


def samples(count=1000, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(20, 250, (count, 3, 4, 4), dtype=torch.uint8, generator=random)


def near(space):
    return tuple(f"{metric}_{space}" for metric in NEIGHBOUR_METRICS)


# Names


def test_a_protocol_says_which_spaces_are_added():
    tract = load_protocol("tract")
    protocol = load_protocol("tract+DINOv2+clip+neighbours")
    assert protocol.name == "tract+dinov2+clip+neighbours"
    assert protocol.metrics == (
        *tract.metrics, "fd_dinov2", "fd_clip", "mmd_clip", *near("inception"), *near("dinov2"), *near("clip")
    )  # fmt: skip
    assert protocol.core == tract
    assert protocol.core.key == tract.key
    assert set(protocol.added) == set(protocol.metrics) - set(tract.metrics)
    raw = load_protocol("raw")
    assert load_protocol("raw+neighbours").metrics == (*raw.metrics, *near("pixel"), *near("feature"))
    assert load_protocol("raw+neighbours").core == raw
    assert tract.core is tract
    assert load_protocol("raw+clip").core == load_protocol("raw+clip")
    for name in ("tract+inception", "raw+pixel", "tract+", "raw+neighbours+feature"):
        with pytest.raises(ConfigError, match=r"name extractors that '.*' has not"):
            load_protocol(name)
    with pytest.raises(ConfigError, match="protocol 'exact' has its own features"):
        load_protocol("exact+neighbours")


def test_flags_add_to_a_protocol_what_it_has_not():
    assert with_additions("tract", "dinov2, clip", False) == "tract+dinov2+clip"
    assert with_additions("tract+clip", "inception,clip", True) == "tract+clip+neighbours"
    assert with_additions("raw+neighbours", "pixel", True) == "raw+neighbours"
    assert with_additions("tract+neighbours", "dinov2", False) == "tract+dinov2+neighbours"


# Scores


def test_scores_of_added_spaces_are_right_and_the_others_the_same_to_the_bit():
    data, images = Colours(), samples()
    plain = make_scorer(data, load_protocol("tract"), 1, 1000)
    more = make_scorer(data, load_protocol("tract+pixel+clip+neighbours"), 1, 1000, device="cpu")
    more.prepare()
    assert Rows.prepared == ("cpu",)
    found, own = more.score(torch.split(images, 130)), plain.score(torch.split(images, 130))
    assert {name: found[name] for name in own} == own
    assert tuple(found) == more.protocol.metrics
    spaces = {"pixel": PixelExtractor(data), "clip": Rows(data), "inception": lambda grey: Fake()(grey, "torch").pool}
    for name, extract in spaces.items():
        ours, train, held_out = (extract(x).float() for x in (images, data.train, data.held_out))
        with Progress().task("test", 1, "image") as task:
            expected = RealImages.of(train, held_out, task).scores(ours, task)
        assert {metric: found[f"{metric}_{name}"] for metric in expected} == pytest.approx(expected, rel=1e-9)
        if name != "inception":
            distance = frechet_distance(moments(extract(images)), moments(extract(data.train)))
            assert found[f"fd_{name}"] == pytest.approx(distance, rel=1e-6)
    ours, train = Rows(data)(images), Rows(data)(data.train)
    assert found["mmd_clip"] == pytest.approx(discrepancy(ours, train, kernel_mean(train, train)), rel=1e-9)
    assert more.basis.weights == plain.basis.weights | {"clip": "rows", "pixel": "pixel"}
    held_out = {name: value for name, value in more.floors.items() if name.endswith("_pixel")}
    assert held_out.keys() == {"density_pixel", "coverage_pixel", "authenticity_pixel"}
    assert 0 < held_out["authenticity_pixel"] < 1


def test_parts_add_up_to_the_whole():
    scorer = make_scorer(Colours(), load_protocol("tract+pixel+clip+neighbours"), 1, 600)
    images = samples(600)
    parts = [scorer.collect(torch.split(images[at : at + 200], 90)) for at in (0, 200, 400)]
    assert scorer.finish(parts) == pytest.approx(scorer.score([images]), rel=1e-9)


def test_what_is_known_of_the_data_is_computed_once_and_kept(monkeypatch):
    data, images = Colours(), samples(300)
    protocol = load_protocol("tract+clip+neighbours")
    first = make_scorer(data, protocol, 1, 300).score([images])
    folder = reference.cached_statistics("").parent
    kept, *_ = folder.glob("*.neighbours.npz")
    with monkeypatch.context() as patch:
        patch.setattr(RealImages, "of", None)
        patch.setattr("tractbench.evaluation.spaces.kernel_mean", None)
        assert make_scorer(data, protocol, 1, 300).score([images]) == first
    kept.write_bytes(kept.read_bytes()[:-9])
    said = []
    bar = Progress()
    monkeypatch.setattr(bar, "message", said.append)
    assert make_scorer(data, protocol, 1, 300, progress=bar).score([images]) == first
    assert any("does not fit the hashes" in text for text in said)


def test_raw_scores_are_the_same_with_neighbours():
    digits = load_dataset("digits")
    images = digits.held_out[:100]
    plain, more = (make_scorer(digits, load_protocol(name), 50, 100) for name in ("raw", "raw+neighbours"))
    found, own = more.score([images]), plain.score([images])
    assert {name: found[name] for name in own} == own
    copied = more.score([digits.train[:100]])
    assert copied["authenticity_pixel"] == copied["authenticity_feature"] == 0
    assert copied["ct_pixel"] < found["ct_pixel"] - 3
    assert plain.floors.items() <= more.floors.items()


def test_what_cannot_be_scored_is_left_out_and_said(monkeypatch):
    bar, said = Progress(), []
    monkeypatch.setattr(bar, "message", said.append)
    few = make_scorer(Colours(), load_protocol("tract+neighbours"), 1, 40, progress=bar)
    assert "ct_inception" not in few.protocol.metrics
    assert "density_inception" in few.protocol.metrics
    assert any(text.startswith("ct_inception is left out: it needs 60 samples, there are 40") for text in said)
    none = make_scorer(Colours(held_out=0), load_protocol("tract+pixel+neighbours"), 1, 500, progress=bar)
    assert not {"ct_inception", "ct_pixel"} & set(none.protocol.metrics)
    assert "ct_pixel is left out: it needs held-out images, and there are none" in said
    assert none.score([samples(500)]).keys() == set(none.protocol.metrics)
    with pytest.raises(ConfigError, match="density_inception needs the reference's features"):
        check_metrics(("fid", "density_inception"), 1000, None, 10)


# Names of runs


def test_added_spaces_are_in_the_name_and_the_order_is_not():
    data = Colours()
    hashes = {
        name: reference_hash(data, load_protocol(name), samples=1000)
        for name in ("tract", "tract+clip", "tract+pixel", "tract+clip+pixel", "tract+pixel+clip", "tract+neighbours")
    }
    assert hashes["tract+clip+pixel"] == hashes.pop("tract+pixel+clip")
    assert len(set(hashes.values())) == len(hashes)


def test_a_run_with_more_spaces_has_another_name_and_the_same_core():
    def cell(**settings):
        return identify(*resolve({"method": "ddim", "dataset": "digits", "nfe": 1, **settings}))

    plain, more = cell(), cell(protocol="raw+neighbours")
    assert plain.core_reference == plain.reference_hash == more.core_reference != more.reference_hash
    assert plain.student == more.student
    assert plain.id != more.id
    assert "--protocol raw+neighbours" in more.command


def test_weights_are_named_among_what_a_run_needs_and_its_costs():
    settings = {"method": "ddim", "dataset": "cifar10", "nfe": 1, "protocol": "tract+clip"}
    needs = {need.name: need for need in files_needed(*resolve(settings))}
    assert (needs["clip weights"].state, needs["clip weights"].detail) == ("fetched", "far away")
    missing = {need.name: need for need in files_needed(*resolve(settings | {"protocol": "tract+no"}))}
    assert missing["no weights"].state == "MISSING"
