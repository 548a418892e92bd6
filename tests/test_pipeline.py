"""The whole of ``run`` on small data in the true formats: prepare, train a teacher, distil, sample, score."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import cifar_files, npz_files

from tractbench.evaluation import ends
from tractbench.registry import load_dataset

pytestmark = pytest.mark.xdist_group("pipeline")


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Random Inception weights under the true names, of the right size that features stay finite and differ."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({}, path)
    network = Unloaded("inception", ["2048"], feature_extractor_weights_path=path)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(std=(2 / parameter[0].numel()) ** 0.5, generator=generator)
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("ENDS", "CHUNK"):  # 512 noises in all steps of a teacher take minutes on a CPU
        monkeypatch.setattr(ends, name, 16)


def run(tractbench, *arguments):
    few = ("--budget", 32, "--sampling-seeds", 0)  # a distance between 2,048 features takes seconds
    done = tractbench("run", "--tier", "smoke", "--json", "--quiet", *few, *arguments)
    assert done.code == 0, done.err
    return done.json


def test_cifar10_from_batches_to_a_score_that_is_no_fid(tractbench, tmp_path, inception):
    tractbench("data", "prepare", "cifar10", cifar_files(tmp_path / "files"), "--allow-deviation", "-q")
    made = tractbench("teacher", "train", "--dataset", "cifar10", "--process", "ve", "--tier", "smoke", "--steps", 2,
                      "-q")  # fmt: skip
    assert made.code == 0, made.err
    command = ("--method", "tract_edm", "--dataset", "cifar10", "--nfe", 1, "--weights", inception,
               "--set", "grid_steps=8", "--schedule", "8,1")  # fmt: skip
    result = run(tractbench, *command)
    assert result["status"] == "done"
    assert not any(name.startswith("fid") for name in result["metrics"])
    assert result["metrics"]["fd_unverified"]["mean"] > 0
    record = (tmp_path / result["run_dir"] / "record.json").read_text()
    for words in ("not the published Inception weights", "16 samples instead of 50,000", "20 images instead of 50,000"):
        assert words in record
    assert run(tractbench, *command)["identity"] == result["identity"]
    table = tractbench("report", "--format", "markdown").out
    assert "Left out: 1 run (not a FID, as the weights are not the published Inception weights)." in table
    assert "|" not in table
    assert "Left out: 1 run" in Path(tractbench("report").err.split()[1]).read_text()


def test_a_run_without_the_weights_says_where_they_belong(tractbench, tmp_path, monkeypatch):
    import tractbench.evaluation.extractors.inception as module

    monkeypatch.setattr(module, "URL", "http://127.0.0.1:9/" + module.URL.rpartition("/")[2])
    tractbench("data", "prepare", "cifar10", cifar_files(tmp_path / "files"), "--allow-deviation", "-q")
    tractbench("teacher", "train", "--dataset", "cifar10", "--process", "ve", "--tier", "smoke", "--steps", 1, "-q")
    done = tractbench("run", "--method", "ddim", "--process", "ve", "--dataset", "cifar10", "--tier", "smoke", "-q")
    assert done.code == 2
    assert "weights-inception-2015-12-05-6726825d.pth" in done.err
    assert done.err.count("\n") == 1


def test_imagenet64_is_class_conditional_from_end_to_end(tractbench, tmp_path, inception):
    files = npz_files(tmp_path, sizes=(30,))
    tractbench("data", "prepare", "imagenet64:npz", files, "--allow-deviation", "-q")
    done = tractbench("teacher", "train", "--dataset", "imagenet64:npz", "--tier", "smoke", "--steps", 2,
                      "-q")  # fmt: skip
    assert done.code == 0, done.err
    result = run(
        tractbench, "--method", "tract", "--dataset", "imagenet64:npz", "--set", "grid_steps=4",
        "--schedule", "4,2,1", "--weights", inception,
    )  # fmt: skip
    assert result["status"] == "done"
    assert np.isfinite(result["metrics"]["fd_unverified"]["mean"])
    assert load_dataset("imagenet64:npz").train_labels is not None
