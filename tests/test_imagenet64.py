"""ImageNet at 64x64: labels that belong to their images, and damage in every kind of file."""

import io
import json
import zipfile

import numpy as np
import pytest
from data_files import npz_files, pixels
from PIL import Image

from tractbench.datasets.formats.imagenet_order import ILSVRC_TO_SORTED
from tractbench.datasets.formats.prepared import open_split
from tractbench.datasets.imagenet64 import ImageNet64
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.progress import Progress


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


def class_folders(folder, names, size=64):
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        Image.fromarray(pixels(index, 1, size)[0].transpose(1, 2, 0)).save(folder / name / "x.png")
    return folder


def prepare(source, path, **how):
    dataset = ImageNet64(source)
    dataset.prepare(path, Progress(), allow_deviation=True, **how)
    return dataset


def held_out_labels(dataset):
    return open_split(dataset.data_name, "held_out").labels.tolist()


def test_a_class_has_one_label_in_both_splits(tmp_path):
    class_folders(tmp_path / "train", ["n01", "n02", "n03"])
    class_folders(tmp_path / "val", ["n01", "n03"])
    dataset = prepare("crop", tmp_path)
    assert dataset.train_labels.tolist() == [0, 1, 2]
    assert held_out_labels(dataset) == [0, 2]


def test_a_held_out_class_that_nothing_is_trained_on_is_refused(tmp_path):
    class_folders(tmp_path / "train", ["n01", "n02"])
    class_folders(tmp_path / "val", ["n01", "n04"])
    with pytest.raises(ConfigError, match="n04"):
        prepare("crop", tmp_path)


def test_labels_are_those_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    folder = class_folders(tmp_path / "train", ["b", "a", "C", "n10", "n9"])
    theirs = ImageFolder(str(folder))
    dataset = prepare("crop", tmp_path)
    assert dataset.train_labels.tolist() == theirs.targets
    expected = np.stack([np.asarray(image).transpose(2, 0, 1) for image, _ in theirs])
    assert np.array_equal(dataset.train.numpy(), expected)


def test_images_that_lie_in_no_class_are_not_left_out_unsaid(tmp_path):
    class Lines(Progress):
        lines = ()

        def message(self, text):
            self.lines += (text,)

    class_folders(tmp_path / "train", ["n01"])
    (tmp_path / "val").mkdir()
    Image.fromarray(pixels(0, 1, 64)[0].transpose(1, 2, 0)).save(tmp_path / "val" / "x.png")
    said = Lines()
    ImageNet64("crop").prepare(tmp_path, said, allow_deviation=True)
    assert "no held_out images" in said.lines[-1]
    with pytest.raises(ConfigError, match="no held_out images"):
        prepare("crop", tmp_path, splits=("held_out",))


def test_a_full_size_image_is_converted_whatever_its_colours(tmp_path):
    """ImageNet has grey and CMYK photographs."""
    for name, mode in (("a", "L"), ("b", "CMYK")):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(pixels(0, 1, 64)[0].transpose(1, 2, 0)).convert(mode).save(
            tmp_path / "train" / name / "x.JPEG", "jpeg"
        )
    dataset = prepare("crop", tmp_path)
    files = sorted((tmp_path / "train").rglob("*.JPEG"))
    for image, file in zip(dataset.train.numpy(), files, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1))


def test_order_does_not_depend_on_who_finishes_first(tmp_path, monkeypatch):
    """Images are decoded side by side; the large ones at the front take longest."""
    for index in range(40):
        folder = tmp_path / "train" / f"n{index % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        size = 400 if index < 8 else 64
        Image.new("RGB", (size, size), (index, 0, 0)).save(folder / f"{index:02d}.png")
    dataset = prepare("area", tmp_path)
    assert dataset.train[:, 0, 0, 0].tolist() == [i for label in range(4) for i in range(label, 40, 4)]


def test_labels_of_the_batches_are_ilsvrcs_numbers(tmp_path):
    """Numbers as in map_clsloc.txt of ILSVRC's development kit; torchvision's classes are sorted by WordNet id."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES as SORTED_CLASSES

    known = {1: "kit fox", 2: "English setter", 3: "Siberian husky", 429: "crane bird", 449: "tench", 490: "sea snake",
             545: "crane", 782: "maillot", 836: "cardigan", 977: "maillot tank suit", 1000: "dumbbell"}  # fmt: skip
    folder = tmp_path / "npz"
    folder.mkdir()
    data = pixels(0, len(known), 64).reshape(len(known), -1)
    np.savez(folder / "train_data_batch_1.npz", data=data, labels=np.array(list(known)))
    found = prepare("npz", folder).train_labels.tolist()
    assert [SORTED_CLASSES[label] for label in found] == list(known.values())


def test_every_class_has_one_number():
    assert sorted(ILSVRC_TO_SORTED.tolist()) == list(range(1000))


def zip_of(path, count=3, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        names = [f"00000/img{index:08d}.png" for index in range(count)]
        for index, name in enumerate(names):
            buffer = io.BytesIO()
            Image.fromarray(pixels(index, 1, 64)[0].transpose(1, 2, 0)).save(buffer, "png")
            archive.writestr(name, buffer.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[name, 0] for name in names]}))
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_with_a_changed_byte_is_refused(tmp_path, compression):
    path = zip_of(tmp_path / "x.zip", compression=compression)
    data = bytearray(path.read_bytes())
    data[20_000:20_040] = bytes(255 - byte for byte in data[20_000:20_040])
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive, pytest.raises((zipfile.BadZipFile, Exception)):
        archive.testzip() and archive.read(archive.testzip())
    with pytest.raises(DamagedFileError, match="img00000001"):
        prepare("zip", path)


def test_a_changed_byte_in_packed_batches_is_found(tmp_path):
    folder = npz_files(tmp_path, sizes=(3, 20))
    file = folder / "train_data_batch_2.npz"
    with np.load(file) as arrays:
        np.savez_compressed(file, **{name: arrays[name] for name in ("labels", "data")})
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 100] = b"\xff" * 100
    file.write_bytes(data)
    with pytest.raises(DamagedFileError, match="train_data_batch_2"):
        prepare("npz", folder)


def test_a_copy_of_a_batch_is_no_batch(tmp_path):
    folder = npz_files(tmp_path, sizes=(3, 2))
    (folder / "train_data_batch_1 (1).npz").write_bytes((folder / "train_data_batch_1.npz").read_bytes())
    assert len(prepare("npz", folder).train) == 5


def test_a_batch_with_fewer_images_than_labels_is_refused(tmp_path):
    folder = npz_files(tmp_path, sizes=(3,))
    np.savez(folder / "train_data_batch_1.npz", data=pixels(0, 2, 64).reshape(2, -1), labels=np.array([1, 2, 3]))
    with pytest.raises(DamagedFileError, match="train_data_batch_1"):
        prepare("npz", folder)


@pytest.mark.parametrize("source", ["crop", "npz", "zip"])
def test_what_is_no_such_source_is_refused(tmp_path, source):
    (tmp_path / "x.tar").write_bytes(b"something else")
    with pytest.raises((ConfigError, DamagedFileError), match=r"npz|zip|full-size"):
        prepare(source, tmp_path / "x.tar")


def test_pixels_of_another_source_are_named_but_not_taken(tmp_path):
    prepare("npz", npz_files(tmp_path))
    with pytest.raises(ConfigError, match="here: imagenet64:npz"):
        _ = ImageNet64().train
