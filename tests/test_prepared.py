"""Prepared splits: never mixed from two conversions, never another split than asked for, decoded only as drawn."""

import json
import zipfile

import numpy as np
import pytest
import torch
from data_files import cifar_files, npz_files, pixels, python2_pickle

from tractbench.config.fields import RunConfig
from tractbench.datasets.cifar10 import CIFAR10
from tractbench.datasets.formats.prepared import folder_of, open_split, read_manifest
from tractbench.datasets.imagenet64 import ImageNet64
from tractbench.diffusion.denoiser import X0Denoiser
from tractbench.diffusion.processes import VP
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.io.seals import sealed, unsealed
from tractbench.methods.tract import TRACT
from tractbench.nets.build import build_network
from tractbench.progress import Progress
from tractbench.registry import load_dataset
from tractbench.seeds import generator
from tractbench.training.checkpoints import Checkpoints
from tractbench.training.distillation import Distillation
from tractbench.training.loop import distill


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


class Lines(Progress):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def test_files_mended_in_place_are_converted_from_the_start(tmp_path):
    """The first batch of the bad files is converted before the second is found damaged; it must not be kept."""
    root = cifar_files(tmp_path / "files")
    batches = root / "cifar-10-batches-py"
    good = {name: (batches / name).read_bytes() for name in ("data_batch_1", "data_batch_2")}
    (batches / "data_batch_1").write_bytes(good["data_batch_2"])
    (batches / "data_batch_2").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match="data_batch_2"):
        CIFAR10().prepare(root, Progress(), allow_deviation=True)
    for name, content in good.items():
        (batches / name).write_bytes(content)
    CIFAR10().prepare(root, Progress(), allow_deviation=True)
    assert np.array_equal(load_dataset("cifar10").train.numpy(), np.concatenate([pixels(i, 4, 32) for i in range(5)]))


def test_a_failed_conversion_leaves_the_one_before(tmp_path):
    CIFAR10().prepare(cifar_files(tmp_path / "files"), Progress(), allow_deviation=True)
    before = open_split("cifar10", "train").manifest
    other = cifar_files(tmp_path / "other", count=5)
    (other / "cifar-10-batches-py" / "data_batch_4").write_bytes(b"damaged")
    with pytest.raises(DamagedFileError):
        CIFAR10().prepare(other, Progress(), allow_deviation=True, force=True)
    assert open_split("cifar10", "train").manifest == before
    assert CIFAR10().verify() == {"train": True, "held_out": True}


def test_data_that_deviate_are_not_taken_for_the_published_ones(tmp_path):
    class Published(CIFAR10):
        def deviation(self, path):
            return None

        train_count, held_out_count = 25, 5

    CIFAR10().prepare(cifar_files(tmp_path / "tiny"), Progress(), allow_deviation=True)
    whole = cifar_files(tmp_path / "whole", count=5)
    with pytest.raises(ConfigError, match=r"20 images instead of 50,000.*--force"):
        Published().prepare(whole, Progress())
    Published().prepare(whole, Progress(), force=True)
    assert load_dataset("cifar10").deviates is None
    lines = Lines()
    Published().prepare(whole, lines)
    assert "already prepared" in lines.lines[0]


def test_the_fingerprint_of_data_that_deviate_is_their_own(tmp_path):
    CIFAR10().prepare(cifar_files(tmp_path / "files"), Progress(), allow_deviation=True)
    deviating = load_dataset("cifar10").fingerprint
    path = folder_of("cifar10") / "train.json"
    path.write_text(json.dumps(sealed(unsealed(json.loads(path.read_text())) | {"deviation": None})))
    assert load_dataset("cifar10").fingerprint != deviating


def test_the_fingerprint_is_the_manifests_and_opens_no_image(tmp_path):
    CIFAR10().prepare(cifar_files(tmp_path / "files"), Progress(), allow_deviation=True)
    before = load_dataset("cifar10").fingerprint
    for name in ("train.pixels", "train.labels"):
        (folder_of("cifar10") / name).unlink()
    found = load_dataset("cifar10")
    assert (found.fingerprint, found.deviates) == (before, read_manifest("cifar10", "train").deviation)
    with pytest.raises(DamagedFileError, match="prepare it again"):
        _ = found.train


def test_runs_that_use_the_labels_or_no_mirror_images_are_of_other_data(tmp_path):
    class Unmirrored(CIFAR10):
        flips = False

    CIFAR10().prepare(cifar_files(tmp_path / "files"), Progress(), allow_deviation=True)
    plain, conditional = load_dataset("cifar10"), load_dataset("cifar10:conditional")
    assert len({plain.fingerprint, conditional.fingerprint, Unmirrored().fingerprint}) == 3


def test_labels_are_part_of_the_fingerprint(tmp_path):
    root = cifar_files(tmp_path / "files")
    CIFAR10().prepare(root, Progress(), allow_deviation=True)
    before = load_dataset("cifar10:conditional").fingerprint
    batch = {b"data": pixels(0, 4, 32).reshape(4, -1), b"labels": [9, 9, 9, 9], b"filenames": [b"x.png"] * 4,
             b"batch_label": b"data_batch_1"}  # fmt: skip
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(python2_pickle(batch))
    CIFAR10().prepare(root, Progress(), allow_deviation=True, force=True)
    assert load_dataset("cifar10:conditional").fingerprint != before


@pytest.mark.parametrize("name", ["cifar10:conditional", "imagenet64:npz", 'faces:a/b\\c"*?<>|'])
def test_folders_have_names_that_every_system_allows(name):
    assert not set('<>:"/\\|?*') & set(folder_of(name).name)
    assert folder_of(name).parent.name == "data"


@pytest.mark.parametrize("change", [{"dataset": "imagenet64:lanczos"}, {"split": "held_out"}])
def test_a_manifest_of_something_else_is_refused(tmp_path, change):
    dataset = ImageNet64("npz")
    dataset.prepare(npz_files(tmp_path), Progress(), allow_deviation=True)
    path = folder_of("imagenet64:npz") / "train.json"
    path.write_text(json.dumps(sealed(unsealed(json.loads(path.read_text())) | change)))
    with pytest.raises(DamagedFileError, match="prepare it again"):
        _ = dataset.train


def test_files_without_an_image_are_refused(tmp_path):
    path = tmp_path / "empty.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset.json", json.dumps({"labels": []}))
    with pytest.raises(ConfigError, match="no image"):
        ImageNet64("zip").prepare(path, Progress(), allow_deviation=True)


def test_another_number_of_images_is_refused(tmp_path):
    class Published(CIFAR10):
        def deviation(self, path):
            return None

        train_count = 21

    root = cifar_files(tmp_path / "files")
    with pytest.raises(ConfigError, match="cifar10 train: 20 images instead of 21"):
        Published().prepare(root, Progress())
    assert open_split("cifar10", "train") is None
    with pytest.raises(ConfigError, match="5 images instead of 1,281,167"):
        ImageNet64("npz").prepare(npz_files(tmp_path), Progress())


@pytest.mark.parametrize("flips", [False, True])
def test_training_on_mapped_grey_levels_is_training_on_decoded_images(tmp_path, flips):
    ImageNet64("npz").prepare(npz_files(tmp_path), Progress(), allow_deviation=True)
    dataset = load_dataset("imagenet64:npz")
    config = RunConfig(
        method="tract", dataset="imagenet64:npz", tier="smoke", teacher="none", grid_steps=1024, schedule=(8, 4, 1),
        budget=24, batch=4, lr=1e-2,
    )  # fmt: skip
    arguments = {"channels": 3, "size": 64, "width": 4, "blocks": 1, "embedding": 4}
    teacher = (
        X0Denoiser(build_network("mlp", arguments, generator("tests", "weights")), VP()).requires_grad_(False).eval()
    )

    def trained(name, images, **how):
        run = Distillation(config, TRACT(), VP(), teacher, images, flips=flips, **how)
        return distill(run, Checkpoints(tmp_path / name, "ab" * 32), Progress())

    mapped = trained("mapped", dataset.train, decode=dataset.decode)
    whole = trained("whole", torch.from_numpy(dataset.train.numpy().astype(np.float32) * (2 / 255) - 1))
    assert mapped.losses == whole.losses
    for name, weights in mapped.student.state_dict().items():
        assert torch.equal(weights, whole.student.state_dict()[name]), name
