"""Data files as people's machines rewrite them, and folders with more in them than classes."""

import io
import json
import zipfile

import numpy as np
import pytest
from data_files import cifar_files, pixels
from PIL import Image

from tractbench.datasets.cifar10 import CIFAR10
from tractbench.datasets.formats.prepared import read_manifest
from tractbench.datasets.imagenet64 import ImageNet64
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.progress import Progress
from tractbench.registry import load_dataset

IMAGES = pixels(0, 4, 32)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


def edm_zip(path, labels, images=IMAGES, rename=lambda name: name):
    with zipfile.ZipFile(path, "w") as archive:
        names = [f"00000/img{index:08d}.png" for index in range(len(images))]
        for name, image in zip(names, images, strict=True):
            file = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).save(file, "png")
            archive.writestr(rename(name), file.getvalue())
        listed = None if labels is None else [[name, label] for name, label in zip(names, labels, strict=True)]
        archive.writestr(rename("dataset.json"), json.dumps({"labels": listed}))
    return path


def prepare(path, dataset=None, **how):
    dataset = dataset or CIFAR10()
    dataset.prepare(path, Progress(), allow_deviation=True, **how)
    return load_dataset(dataset.name)


def test_edms_zip_is_the_same_data_as_the_batches(tmp_path):
    prepare(cifar_files(tmp_path / "files"), splits=("train",))
    before = read_manifest("cifar10", "train")
    labels = [(index + i) % 10 for index in range(5) for i in range(4)]
    images = np.concatenate([pixels(index, 4, 32) for index in range(5)])
    prepare(edm_zip(tmp_path / "cifar10-32x32.zip", labels, images), force=True)
    assert read_manifest("cifar10", "train").sha256 == before.sha256
    assert "no hash is published" in read_manifest("cifar10", "train").deviation


def test_a_zip_without_labels_is_for_runs_without_classes(tmp_path):
    dataset = prepare(edm_zip(tmp_path / "a.zip", None))
    assert np.array_equal(dataset.train.numpy(), IMAGES)
    assert dataset.train_labels is None
    assert not read_manifest("cifar10", "train").labelled
    with pytest.raises(ConfigError, match="files without labels"):
        _ = load_dataset("cifar10:conditional").train_labels


@pytest.mark.parametrize("rename", [lambda name: f"set/{name}", lambda name: name.replace("/", "\\")])
def test_zips_from_other_machines(tmp_path, rename):
    path = edm_zip(tmp_path / "a.zip", [3, 1, 4, 1], rename=rename)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("__MACOSX/set/._dataset.json", "__MACOSX/00000/._img00000000.png", ".DS_Store"):
            archive.writestr(name, b"no picture")
    dataset = prepare(path, CIFAR10("conditional"))
    assert np.array_equal(dataset.train.numpy(), IMAGES)
    assert dataset.train_labels.tolist() == [3, 1, 4, 1]


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(0, 1, 64)[0].transpose(1, 2, 0)).save(path)


def test_hidden_folders_are_no_classes(tmp_path):
    for name in ("n01", "n02"):
        image(tmp_path / name / "x.png")
        (tmp_path / name / "._x.png").write_bytes(b"no picture")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    image(tmp_path / "__MACOSX" / "x.png")
    assert prepare(tmp_path, ImageNet64("crop")).train_labels.tolist() == [0, 1]
    assert read_manifest("imagenet64:crop", "train").notes == ("2 hidden folders, passed over: .ipynb_checkpoints",)


def test_an_empty_class_is_named(tmp_path):
    image(tmp_path / "n02" / "x.png")
    (tmp_path / "n01").mkdir()
    with pytest.raises(ConfigError, match="n01 would be a class and holds no image"):
        prepare(tmp_path, ImageNet64("crop"))


def test_numbers_are_in_the_order_of_numbers(tmp_path):
    for number, count in ((0, 1), (1, 2), (2, 3), (10, 4)):
        for index in range(count):
            image(tmp_path / str(number) / f"{index}.png")
    labels = prepare(tmp_path, ImageNet64("crop")).train_labels.tolist()
    assert [labels.count(label) for label in range(4)] == [1, 2, 3, 4]
    (note,) = read_manifest("imagenet64:crop", "train").notes
    assert "order of their folders' numbers" in note


def test_other_files_for_what_is_prepared_are_not_passed_over(tractbench, tmp_path):
    one, other = edm_zip(tmp_path / "one.zip", None), edm_zip(tmp_path / "other.zip", None, pixels(9, 4, 32))
    command = ("data", "prepare", "cifar10", "--allow-deviation", "-q")
    assert [tractbench(*command, path).code for path in (one, one)] == [0, 0]
    refused = tractbench(*command, other)
    assert refused.code == 2
    assert "already prepared, from other files" in refused.err
    assert np.array_equal(load_dataset("cifar10").train.numpy(), IMAGES)
    assert tractbench(*command, other, "--force").code == 0
    assert np.array_equal(load_dataset("cifar10").train.numpy(), pixels(9, 4, 32))


@pytest.mark.parametrize("allow", [False, True])
def test_a_web_page_in_place_of_an_archive_is_one_line(tmp_path, allow):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_text("<!DOCTYPE html>\n<html><body>Please log in</body></html>\n")
    with pytest.raises(DamagedFileError, match="it is a web page") as caught:
        CIFAR10().prepare(path, Progress(), allow_deviation=allow)
    assert "\n" not in str(caught.value)
