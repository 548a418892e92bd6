"""Data sets prepared from small files in the true formats, made here by the formats' own libraries."""

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from data_files import cifar_files, npz_files, pixels
from PIL import Image

from tractbench.config.resolve import resolve
from tractbench.datasets import imagenet64
from tractbench.datasets.cifar10 import CIFAR10
from tractbench.datasets.formats.prepared import folder_of, open_split
from tractbench.datasets.imagenet64 import FILTERS, ImageNet64
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.progress import Progress
from tractbench.registry import load_dataset


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


# CIFAR-10


def tar_of(folder, path):
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")
    return path


@pytest.mark.parametrize("kind", ["folder", "inner", "tar"])
def test_cifar10_is_what_torchvision_reads(tmp_path, tractbench, monkeypatch, kind):
    import hashlib

    from torchvision.datasets import CIFAR10 as Theirs

    root = cifar_files(tmp_path / "files")
    path = {"folder": root, "inner": root / "cifar-10-batches-py", "tar": tar_of(root, tmp_path / "c.tar.gz")}[kind]
    done = tractbench("data", "prepare", "cifar10", path, "--allow-deviation", "--json", "--quiet")
    assert done.code == 0, done.err
    assert [(m["split"], m["count"]) for m in done.json] == [("train", 20), ("held_out", 4)]
    assert "instead of 50,000" in done.json[0]["deviation"]

    def listed(names):
        inner = root / "cifar-10-batches-py"
        return [[name, hashlib.md5((inner / name).read_bytes()).hexdigest()] for name in names]

    monkeypatch.setattr(Theirs, "train_list", listed([f"data_batch_{i}" for i in range(1, 6)]))
    monkeypatch.setattr(Theirs, "test_list", listed(["test_batch"]))
    meta = hashlib.md5((root / "cifar-10-batches-py" / "batches.meta").read_bytes()).hexdigest()
    monkeypatch.setattr(Theirs, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    ours = load_dataset("cifar10")
    for split, images in (("train", ours.train), ("held_out", ours.held_out)):
        theirs = Theirs(root, train=split == "train")
        assert np.array_equal(images.numpy(), theirs.data.transpose(0, 3, 1, 2))
    assert open_split("cifar10", "train").labels.tolist() == Theirs(root).targets
    assert ours.train_labels is None
    assert load_dataset("cifar10:conditional").train_labels.tolist() == Theirs(root).targets


def test_names_of_older_numpy_are_known(tmp_path):
    root = cifar_files(tmp_path / "files")
    for file in (root / "cifar-10-batches-py").iterdir():
        file.write_bytes(file.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    CIFAR10().prepare(root, Progress(), allow_deviation=True)
    assert np.array_equal(load_dataset("cifar10").train[:4].numpy(), pixels(0, 4, 32))


def test_published_counts_and_hashes_are_held(tmp_path, tractbench):
    root = cifar_files(tmp_path / "files")
    done = tractbench("data", "prepare", "cifar10", root)
    assert done.code == 2
    assert "MD5 of data_batch_1" in done.err
    assert "--allow-deviation" in done.err
    done = tractbench("data", "prepare", "cifar10", tar_of(root, tmp_path / "c.tar.gz"))
    assert done.code == 2
    assert "published 6d958be07457" in done.err
    assert not folder_of("cifar10").exists()


def test_data_made_with_a_deviation_has_another_fingerprint_and_says_so(tmp_path, tractbench):
    tractbench("data", "prepare", "cifar10", cifar_files(tmp_path / "files"), "--allow-deviation")
    first = load_dataset("cifar10")
    assert "20 images" in first.deviates
    other = cifar_files(tmp_path / "other", count=5)
    tractbench("data", "prepare", "cifar10", other, "--allow-deviation", "--force")
    assert load_dataset("cifar10").fingerprint != first.fingerprint
    assert "DEVIATES" in tractbench("data", "info", "cifar10").out
    assert "deviates" in tractbench("data", "list").out


class Shell:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.mark}",)


def test_a_batch_that_would_execute_something_is_refused(tmp_path, tractbench):
    root = cifar_files(tmp_path / "files")
    (root / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(Shell(tmp_path / "executed"), protocol=2))
    done = tractbench("data", "prepare", "cifar10", root, "--allow-deviation")
    assert done.code == 2
    assert "data_batch_2" in done.err
    assert "system" in done.err
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "shape", "dtype", "label"])
def test_damaged_batches_are_named(tmp_path, tractbench, damage):
    root = cifar_files(tmp_path / "files")
    file = root / "cifar-10-batches-py" / "data_batch_3"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-30])
    else:
        data = pixels(0, 4, 32).reshape(4, -1)
        data = data[:, :-1] if damage == "shape" else data.astype(np.float32) if damage == "dtype" else data
        batch = {b"data": data, b"labels": [0, 1, 2, 10 if damage == "label" else 3]}
        file.write_bytes(pickle.dumps(batch, protocol=2))
    done = tractbench("data", "prepare", "cifar10", root, "--allow-deviation", "--quiet")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert ("label 10" if damage == "label" else "data_batch_3") in done.err
    assert open_split("cifar10", "train") is None


def test_what_is_not_there_is_named(tractbench, tmp_path):
    assert "cs.toronto.edu" in tractbench("data", "prepare", "cifar10", tmp_path / "none.tar.gz").err
    assert "--download" in tractbench("data", "prepare", "cifar10").err
    assert "may not be passed on" in tractbench("data", "prepare", "imagenet64", "--download").err
    assert "always here" in tractbench("data", "info", "digits").err
    assert "is not prepared" in tractbench("data", "verify", "cifar10").err
    (tmp_path / "cut.tar.gz").write_bytes(
        tar_of(cifar_files(tmp_path / "f"), tmp_path / "c.tar.gz").read_bytes()[:3000]
    )
    done = tractbench("data", "prepare", "cifar10", tmp_path / "cut.tar.gz", "--allow-deviation", "--quiet")
    assert "not a whole" in done.err
    with pytest.raises(ConfigError, match="data prepare cifar10 --download"):
        _ = load_dataset("cifar10").train


def test_download_prepares_through_a_mirror(tractbench, tmp_path):
    mirror = tar_of(cifar_files(tmp_path / "files"), tmp_path / "mirror.tar.gz").as_uri()
    assert tractbench("data", "prepare", "cifar10", "--download", "--url", mirror, "-q").code == 2  # a wrong hash
    done = tractbench("data", "prepare", "cifar10", "--download", "--url", mirror, "-q", "--allow-deviation")
    assert done.code == 0, done.err
    assert tractbench("data", "verify", "cifar10").code == 0


# Preparing


def test_an_interrupted_conversion_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet64, "PIECE", 2)
    files = npz_files(tmp_path, sizes=(5, 4))
    dataset = ImageNet64("npz")
    real, reads = imagenet64._npz_images, []

    def stops(file, labels, first):
        for number, piece in enumerate(real(file, labels, first)):
            if file.name.endswith("2.npz") and number == 1:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(imagenet64, "_npz_images", stops)
    with pytest.raises(KeyboardInterrupt):
        dataset.prepare(files, Progress(), allow_deviation=True)
    assert open_split(dataset.data_name, "train") is None

    def recorded(file, labels, first):
        reads.append((file.name, first))
        return real(file, labels, first)

    monkeypatch.setattr(imagenet64, "_npz_images", recorded)
    dataset.prepare(files, Progress(), allow_deviation=True)
    assert reads == [("train_data_batch_2.npz", 2)]  # the first seven images were there
    whole = open_split(dataset.data_name, "train").images.numpy()
    assert np.array_equal(whole, np.concatenate([pixels(0, 5, 64), pixels(1, 4, 64)]))
    assert all(dataset.verify().values())


def test_a_half_made_conversion_of_other_files_is_not_continued(tmp_path):
    dataset = ImageNet64("npz")
    folder = folder_of(dataset.data_name)
    folder.mkdir(parents=True)
    (folder / "train.pixels.part").write_bytes(b"\1" * 3 * 64 * 64 * 2)
    (folder / "train.labels.part").write_bytes(b"\0" * 8)
    (folder / "train.json.part").write_text(json.dumps({"identity": "something else"}))
    dataset.prepare(npz_files(tmp_path, sizes=(3,)), Progress(), allow_deviation=True)
    assert np.array_equal(dataset.train.numpy(), pixels(0, 3, 64))


def test_damage_is_found(tmp_path, tractbench):
    tractbench("data", "prepare", "cifar10", cifar_files(tmp_path / "files"), "--allow-deviation")
    file = folder_of("cifar10") / "train.pixels"
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    done = tractbench("data", "verify", "cifar10")
    assert done.code == 2
    assert "train has another hash" in done.err
    file.write_bytes(data[:-1])
    with pytest.raises(DamagedFileError, match="not of 20 images"):
        _ = load_dataset("cifar10").train
    (folder_of("cifar10") / "train.json").write_text("{")
    with pytest.raises(DamagedFileError, match="prepare it again"):
        _ = load_dataset("cifar10").train


def test_images_are_mapped_not_read(tmp_path):
    """A sparse file of 16 GB opens at once; indexing reads only what is asked for."""
    import resource

    dataset = ImageNet64("npz")
    dataset.prepare(npz_files(tmp_path, sizes=(3,)), Progress(), allow_deviation=True)
    folder, count = folder_of(dataset.data_name), 1_281_167
    manifest = json.loads((folder / "train.json").read_text()) | {"count": count}
    del manifest["seal"]
    (folder / "train.json").write_text(json.dumps(manifest))
    for name, size in (("pixels", 3 * 64 * 64), ("labels", 4)):
        with (folder / f"train.{name}").open("r+b") as file:
            file.truncate(count * size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    images = open_split(dataset.data_name, "train").images
    assert images.shape == (count, 3, 64, 64)
    assert images.index_select(0, torch.tensor([0, 1_000_000])).sum() == int(pixels(0, 3, 64)[0].sum())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


# ImageNet 64x64


def test_npz_batches(tmp_path, tractbench):
    folder = npz_files(
        tmp_path, (3, 2) + (1,) * 8 + (4,), [*(f"train_data_batch_{i}.npz" for i in range(1, 11)), "val_data.npz"]
    )
    done = tractbench("data", "prepare", "imagenet64:npz", folder, "--allow-deviation", "--json", "-q")
    assert [(m["split"], m["count"]) for m in done.json] == [("train", 13), ("held_out", 4)]
    dataset = load_dataset("imagenet64:npz")
    expected = np.concatenate([pixels(i, n, 64) for i, n in enumerate((3, 2) + (1,) * 8)])
    assert np.array_equal(dataset.train.numpy(), expected)  # batch 10 comes last, not after batch 1
    assert dataset.train_labels[:5].tolist() == [278, 285, 249, 212, 350]
    assert dataset.held_out.shape == (4, 3, 64, 64)


@pytest.mark.parametrize("damage", ["cut", "width", "float", "label", "pickle"])
def test_false_npz_batches_are_refused(tmp_path, tractbench, damage):
    folder = npz_files(tmp_path)
    file = folder / "train_data_batch_2.npz"
    data, labels = pixels(1, 2, 64).reshape(2, -1), np.array([1, 2])
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    elif damage == "pickle":
        np.savez(file, data=np.array([Shell(tmp_path / "executed")] * 2, dtype=object), labels=labels)
    else:
        data = data[:, :-1] if damage == "width" else data.astype(np.float32) if damage == "float" else data
        np.savez(file, data=data, labels=np.array([1, 1001]) if damage == "label" else labels)
    done = tractbench("data", "prepare", "imagenet64:npz", folder, "--allow-deviation", "-q")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert ("label 1000" if damage == "label" else "train_data_batch_2") in done.err
    assert not (tmp_path / "executed").exists()
    assert open_split("imagenet64:npz", "train") is None


def zip_file(path, images, labels, mode="RGB"):
    with zipfile.ZipFile(path, "w") as archive:
        names = []
        for index, image in enumerate(images):
            buffer = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0)).convert(mode).save(buffer, "png")
            names.append(f"{index // 2:05d}/img{index:08d}.png")
            archive.writestr(names[-1], buffer.getvalue())
        listed = None if labels is None else list(map(list, zip(names, labels, strict=True)))
        archive.writestr("dataset.json", json.dumps({"labels": listed}))
    return path


def test_edm_zip(tmp_path):
    images = pixels(3, 5, 64)
    dataset = ImageNet64("zip")
    dataset.prepare(zip_file(tmp_path / "x.zip", images, [4, 3, 2, 1, 999]), Progress(), allow_deviation=True)
    assert np.array_equal(dataset.train.numpy(), images)
    assert dataset.train_labels.tolist() == [4, 3, 2, 1, 999]


@pytest.mark.parametrize(
    ("size", "mode", "labels", "reason"),
    [
        (31, "RGB", [0, 1], "is 31x31"),
        (64, "L", [0, 1], "is L, RGB is needed"),
        (64, "RGBA", [0, 1], "is RGBA"),
        (64, "RGB", None, "no labels"),
    ],
)
def test_false_zips_are_refused(tmp_path, tractbench, size, mode, labels, reason):
    path = zip_file(tmp_path / "x.zip", pixels(0, 2, size), labels, mode)
    done = tractbench("data", "prepare", "imagenet64:zip", path, "--allow-deviation", "-q")
    assert done.code == 2
    assert reason in done.err
    assert done.err.count("\n") == 1


def photo(width, height, seed=0):
    """A smooth picture with an edge, whose resize filters differ."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (5 + c) + seed) + np.cos(y / (9 - c)) + (x > width / 2) for c in range(3)]
    image = np.stack(waves, -1)
    return Image.fromarray(((image - image.min()) / np.ptp(image) * 255).astype(np.uint8))


def image_folder(folder, sizes):
    for index, (width, height) in enumerate(sizes):
        target = folder / f"n{index % 2:08d}"
        target.mkdir(parents=True, exist_ok=True)
        photo(width, height, index).save(target / f"{index}.png")
    return folder


@pytest.mark.parametrize("source", FILTERS)
def test_folders_of_images_by_every_filter(tmp_path, source):
    image_folder(tmp_path / "in" / "train", [(150, 200), (300, 129), (64, 64)])
    image_folder(tmp_path / "in" / "val", [(80, 90)])
    dataset = ImageNet64(source)
    dataset.prepare(tmp_path / "in", Progress(), allow_deviation=True)
    assert dataset.train.shape == (3, 3, 64, 64)
    assert dataset.train_labels.tolist() == [0, 0, 1]
    assert dataset.held_out.shape == (1, 3, 64, 64)
    assert np.array_equal(
        dataset.train[1].numpy(), np.asarray(photo(64, 64, 2)).transpose(2, 0, 1)
    )  # nothing to reduce


def area_means(image, side):
    """Means over cells of equal area of a square image whose side is a multiple."""
    array = np.asarray(image, dtype=np.float64)
    cell = array.shape[0] // side
    return array.reshape(side, cell, side, cell, 3).mean((1, 3))


def test_filters_are_what_they_are_called():
    square, wide = photo(256, 256), photo(400, 256)
    reduced = {name: np.asarray(reduce(square), dtype=np.float64) for name, reduce in FILTERS.items()}
    means = area_means(square, 64)
    assert np.abs(reduced["area"] - means).max() <= 1.01  # two passes, each rounds
    assert np.abs(reduced["box-bicubic"] - means).max() <= 2.01  # two halvings of two passes
    assert np.abs(reduced["lanczos"] - means).max() > 1
    assert np.array_equal(reduced["crop"], np.asarray(square)[96:160, 96:160])
    for name, reduce in FILTERS.items():
        assert reduce(wide).size == (64, 64), name
    centre = wide.crop((72, 0, 328, 256))
    assert np.array_equal(
        np.asarray(FILTERS["lanczos"](wide)), np.asarray(centre.resize((64, 64), Image.Resampling.LANCZOS))
    )
    # OpenCV's and torch's antialiased interpolation are other implementations of bicubic; 8 bits leave a level
    odd = photo(100, 100)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(np.array(odd)).permute(2, 0, 1)[None].double(), size=64, mode="bicubic", antialias=True
    )
    ours = np.asarray(FILTERS["box-bicubic"](odd)).transpose(2, 0, 1)
    assert np.abs(theirs[0].clamp(0, 255).numpy() - ours).max() <= 1.01


def test_empty_and_missing_folders(tmp_path, tractbench):
    (tmp_path / "empty").mkdir()
    assert "holds nothing" in tractbench("data", "prepare", "imagenet64", tmp_path / "empty").err
    assert "no file or folder" in tractbench("data", "prepare", "imagenet64", tmp_path / "none").err
    assert "did you mean 'lanczos'" in tractbench("data", "prepare", "imagenet64:lanzos", tmp_path).err
    bad = tmp_path / "bad" / "n00000000"
    bad.mkdir(parents=True)
    (bad / "x.JPEG").write_bytes(b"no image")
    done = tractbench("data", "prepare", "imagenet64", tmp_path / "bad", "--allow-deviation", "-q")
    assert "x.JPEG is not an image" in done.err


# Presets


@pytest.mark.parametrize("dataset", ["cifar10", "imagenet64"])
@pytest.mark.parametrize("method", ["tract", "btd", "tract_edm", "ddim"])
def test_the_papers_experiment_needs_no_further_flag(method, dataset):
    config, _, _ = resolve({"method": method, "dataset": dataset, "nfe": 1})
    assert (config.tier, config.samples, config.protocol) == ("paper", 50_000, "tract")
    assert config.sampling_seeds == (0, 1, 2, 3, 4)
    edm = method == "tract_edm"
    teachers = {"cifar10": ("google-cifar10", "edm-cifar10-uncond-ve"),
                "imagenet64": ("google-imagenet64", "edm-imagenet64-adm")}  # fmt: skip
    assert config.teacher == teachers[dataset][edm]
    if method == "ddim":
        return
    assert config.budget == 100_663_296
    assert config.batch == (512 if edm else 256)
    assert config.lr == (1e-3 if edm else 2e-4)
    assert config.mu_i == (None if method == "btd" else 0.99997 if dataset == "cifar10" else 0.99995)
    schedule = {"tract": (1024, 32, 1), "btd": tuple(1 << i for i in range(10, -1, -1)), "tract_edm": (40, 1)}
    assert config.schedule == schedule[method]
    reduced, _, _ = resolve({"method": method, "dataset": dataset, "tier": "reduced"})
    assert config.budget == 32 * reduced.budget


def test_images_are_mirrored_in_training_only():
    assert CIFAR10.flips
    assert ImageNet64.flips
    assert not load_dataset("digits").flips
