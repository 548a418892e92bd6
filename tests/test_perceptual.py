"""LPIPS as a distance that students are trained by: the authors' own package, on files as published."""

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_files import cifar_files
from torch.nn.functional import interpolate

from tractbench.config.resolve import resolve
from tractbench.diffusion.processes import VE
from tractbench.errors import ConfigError, DamagedFileError, DownloadError
from tractbench.evaluation import ends, inception_scorer
from tractbench.evaluation.extractors.inception import Features
from tractbench.method import Batch, Nets, Phase, Times
from tractbench.methods.cd import CD
from tractbench.nets import perceptual
from tractbench.nets.perceptual import PublishedLPIPS
from tractbench.pipeline.counts import Counts, count_distances
from tractbench.pipeline.needs import files_needed
from tractbench.pipeline.plan import make_plan
from tractbench.progress import Progress

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.xdist_group("perceptual")]
lpips = pytest.importorskip("lpips")
BY_CHANNEL = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth"


@pytest.fixture(scope="module")
def theirs():
    """The authors' network, with their weights by channel and a trunk of random ones."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks torchvision by names of before
        torch.manual_seed(0)
        return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()


@pytest.fixture(scope="module")
def source(theirs, tmp_path_factory):
    """A file of that trunk as torchvision's: in the format of 2017, its classifier behind the features."""
    path = tmp_path_factory.mktemp("published") / "vgg16-397923af.pth"
    slices = (getattr(theirs.net, f"slice{i}") for i in range(1, 6))
    features = {f"features.{name}": tensor for one in slices for name, tensor in one.state_dict().items()}
    more = {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}
    torch.save(features | more, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def published(source, monkeypatch, tmp_path):
    """Both files at addresses on this machine; that of the weights by channel is the published one."""
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual, "TRUNK", replace(perceptual.TRUNK, url=source.as_uri(), sha256=digest))
    monkeypatch.setattr(perceptual, "WEIGHTS", replace(perceptual.WEIGHTS, url=BY_CHANNEL.as_uri()))


def images(size, seed, count=2):
    random = torch.Generator().manual_seed(seed)
    return 2 * torch.rand((count, 3, *size), generator=random) - 1


@pytest.mark.parametrize(("average", "size"), [(False, 224), (True, 64)])
def test_it_is_the_authors_distance_and_has_its_gradients(theirs, published, monkeypatch, average, size):
    if size != 224:
        monkeypatch.setattr(perceptual, "SIZE", size)
    ours = PublishedLPIPS(average)
    ours.fetch(Progress())
    network = ours.load()
    pools = {1: "4", 2: "9", 3: "16", 4: "23"}
    kept = {i: getattr(theirs.net, f"slice{i + 1}")._modules[name] for i, name in pools.items()}
    if average:
        for i, name in pools.items():
            getattr(theirs.net, f"slice{i + 1}")._modules[name] = torch.nn.AvgPool2d(2)
    count = 1 if size == 224 else 2
    first, second = images((24, 32), 0, count).requires_grad_(), images((24, 32), 1, count)
    large = [interpolate(x, (size, size), mode="bilinear", align_corners=False) for x in (first, second)]
    expected = theirs(*large).flatten()
    slope = torch.autograd.grad(expected.sum(), first)[0]
    for i, name in pools.items():
        getattr(theirs.net, f"slice{i + 1}")._modules[name] = kept[i]
    found = network(first, second)
    assert found.shape == (count,)
    assert float(found.detach().min()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    difference = torch.autograd.grad(found.sum(), first)[0] - slope
    assert float(difference.norm() / slope.norm()) < 1e-2  # rounding sends a few pixels' gradients through other units
    assert network(second, second).tolist() == [0] * count


def test_plans_count_its_operations_and_what_it_keeps():
    """VGG-16's thirteen convolutions of both images and back to one; what each leaves is kept for the way back."""
    widths = [(3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56),
              (256, 256, 56), (256, 512, 28), (512, 512, 28), (512, 512, 28), *[(512, 512, 14)] * 3]  # fmt: skip
    forward = sum(2 * 9 * before * after * side**2 for before, after, side in widths)
    found = count_distances(CD(metric="lpips"), (3, 32, 32))
    assert (found.forward, found.backward) == (2 * forward, forward)
    outputs = sum(4 * after * side**2 for _, after, side in widths)
    assert outputs < found.activations == found.activations_bf16 < 3 * outputs
    assert count_distances(CD(metric="l2"), (3, 32, 32)) == Counts()
    settings = {"method": "cd", "dataset": "cifar10", "nfe": 1}
    made = (resolve(settings | {"metric": one}) for one in ("l2", "lpips"))
    plans = [make_plan(*one, Path("runs"), "cpu", Progress(), on="h100") for one in made]
    plain, more = (sum(stage.hours for stage in plan.stages if stage.kind == "training") for plan in plans)
    assert more > plain
    batch = resolve(settings)[0].batch
    assert plans[1].memory.activations - plans[0].memory.activations == batch * found.activations


def test_files_that_are_not_the_published_ones_are_refused(published, monkeypatch, tmp_path):
    distance = PublishedLPIPS(False)
    missing = distance.missing()
    assert str(perceptual.TRUNK.path) in missing
    assert str(perceptual.WEIGHTS.path) in missing
    assert "0.6 GB" in missing
    distance.fetch(Progress())
    assert distance.missing() is None
    perceptual.WEIGHTS.path.write_bytes(BY_CHANNEL.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFileError, match="a78928a0af1e; delete it and fetch it again"):
        distance.fetch(Progress())
    monkeypatch.setattr(perceptual, "WEIGHTS", replace(perceptual.WEIGHTS, url=(tmp_path / "no/vgg.pth").as_uri()))
    perceptual.WEIGHTS.path.unlink()
    with pytest.raises(DownloadError, match=r"put it at .*vgg\.pth"):
        distance.fetch(Progress())


@pytest.mark.parametrize("metric", ["lpips", "lpips_average"])
def test_the_loss_is_the_distance_of_both_ends_of_a_step(metric):
    t = torch.tensor([0.5, 0.9], dtype=torch.float64)
    zero = torch.zeros(2, 3, 8, 8)
    batch = Batch(images((8, 8), 0), Times(t, t, 0 * t), None, zero, zero, VE.on_grid(40))
    asked = []

    def distance(first, second):
        asked.append((first, second))
        return (first - 3 * second).flatten(1).sum(1)

    nets = Nets(lambda x, t, labels: x, lambda x, t, labels: 0.25 * x, None, distances={"lpips": distance})
    scale = torch.tensor(0.5, requires_grad=True)
    loss = CD(metric=metric, teacher_step="ddim").objective(
        batch, Phase(40, 1), 0.0, nets, lambda x, t, labels: scale * x
    )
    ((first, second),) = asked
    torch.testing.assert_close(first.detach(), 0.5 * batch.x_t)
    assert not second.requires_grad
    loss.sum().backward()
    torch.testing.assert_close(scale.grad, batch.x_t.sum())


def test_images_without_colours_are_refused_before_anything_is_made(tractbench, tmp_path):
    with pytest.raises(ConfigError, match="takes RGB images, not 1 channels"):
        CD(metric="lpips").distances((1, 8, 8))
    done = tractbench("run", "--method", "cd", "--dataset", "digits", "--set", "metric=lpips", "-q")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert not (tmp_path / "runs" / "cells").exists()


def test_a_run_fetches_the_files_and_trains_by_them(tractbench, published, monkeypatch):
    class Fake:
        def __init__(self, *ignored):
            pass

        def __call__(self, grey, resize):
            pool = (grey.float() / 255).flatten(1).repeat(1, 2)[:, :2048]
            return Features(pool, pool[:, :10])

    monkeypatch.setattr(inception_scorer, "Inception", Fake)
    monkeypatch.setattr(perceptual, "SIZE", 32)
    for name in ("ENDS", "CHUNK"):
        monkeypatch.setattr(ends, name, 4)
    tractbench("data", "prepare", "cifar10", cifar_files(Path("files")), "--allow-deviation", "-q")
    tractbench("teacher", "train", "--dataset", "cifar10", "--process", "ve", "--tier", "smoke", "--steps", 1, "-q")
    command = ("--method", "cd", "--dataset", "cifar10", "--tier", "smoke", "--schedule", "8,1", "--batch", 2)
    command += ("--budget", 4, "--samples", 16, "--json", "-q")
    config, method, dataset = resolve({"method": "cd", "dataset": "cifar10", "metric": "lpips"})
    assert any(need.name == "lpips weights" for need in files_needed(config, method, dataset))
    scores = set()
    for metric in ("lpips", "l2"):
        done = tractbench("run", *command, "--set", f"metric={metric}")
        assert done.code == 0, done.err
        scores.add(next(iter(done.json["metrics"].values()))["mean"])
    assert len(scores) == 2
    assert perceptual.TRUNK.path.is_file()
