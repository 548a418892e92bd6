"""One byte is flipped in every kind of file that is written and read back: it is seen, said, and moves no number."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from data_files import npz_files
from PIL import Image
from store_data import record

from tractbench.datasets import imagenet64
from tractbench.datasets.formats.prepared import folder_of
from tractbench.datasets.imagenet64 import ImageNet64
from tractbench.diffusion.processes import VP
from tractbench.errors import ConfigError, DamagedFileError, StoreError
from tractbench.evaluation.ends import TeacherEnds
from tractbench.io.seals import BrokenSealError, sealed, unsealed
from tractbench.io.tensors import load_tensors, save_tensors
from tractbench.nets.build import build_network
from tractbench.progress import Progress
from tractbench.reports.stored_files import intact_losses, intact_picture
from tractbench.results.index import INDEX, Index
from tractbench.results.pictures import save_mosaic
from tractbench.results.plans import Plan, register, registered_plans
from tractbench.results.store import LOSSES_HASH, RECORD, STUDENT, Store
from tractbench.seeds import generator
from tractbench.teachers.card import TeacherCard, read_card, read_weights, write_card


class Told(Progress):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def flips(path, number=40):
    """Flip a bit of one byte after another, at even distances, and put it back."""
    content = path.read_bytes()
    for place in np.unique(np.linspace(0, len(content) - 1, number).astype(int)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        yield place
    path.write_bytes(content)


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    ImageNet64("npz").prepare(npz_files(tmp_path), Progress(), allow_deviation=True)
    return folder_of("imagenet64:npz")


@pytest.mark.parametrize("name", ["train.pixels", "train.labels"])
def test_prepared_arrays(prepared, name):
    for _ in flips(prepared / name):
        with pytest.raises(DamagedFileError, match="not as it was prepared; prepare it again"):
            _ = ImageNet64("npz").train if name == "train.pixels" else ImageNet64("npz").train_labels
    assert len(ImageNet64("npz").train) == 5


def test_prepared_manifests(prepared):
    expected = ImageNet64("npz").fingerprint
    for _ in flips(prepared / "train.json"):
        try:  # of white space and of the seal's own name nothing depends
            assert ImageNet64("npz").fingerprint == expected
        except DamagedFileError as error:
            assert "prepare it again" in str(error)  # noqa: PT017


def test_half_made_conversions(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(imagenet64, "PIECE", 2)
    files, real = npz_files(tmp_path, sizes=(5,)), imagenet64._npz_images

    def stops(file, labels, first):
        yield next(real(file, labels, first))
        raise KeyboardInterrupt

    def interrupted(folder):
        shutil.rmtree(folder, ignore_errors=True)
        monkeypatch.setattr(imagenet64, "_npz_images", stops)
        with pytest.raises(KeyboardInterrupt):
            ImageNet64("npz").prepare(files, Progress(), allow_deviation=True)
        monkeypatch.setattr(imagenet64, "_npz_images", real)

    folder = folder_of("imagenet64:npz")
    ImageNet64("npz").prepare(files, Progress(), allow_deviation=True)
    expected = json.loads((folder / "train.json").read_text())["sha256"]
    for name in ("train.pixels.part", "train.labels.part", "train.json.part"):
        for place in (0, 3, -1):
            interrupted(folder)
            content = bytearray((folder / name).read_bytes())
            content[place] ^= 4
            (folder / name).write_bytes(content)
            told = Told()
            ImageNet64("npz").prepare(files, told, allow_deviation=True)
            assert any("made from the start" in text for text in told.messages), (name, place)
            assert json.loads((folder / "train.json").read_text())["sha256"] == expected


def test_a_teachers_samples(tmp_path):
    def ends(teacher, progress):
        return TeacherEnds(
            tmp_path, teacher, "a", VP(), (2, 1, 1), 4, solver="ddim", clip=False, progress=progress
        ).ends

    expected = ends(lambda x, t, labels: x / 2, Progress())
    (path,) = tmp_path.glob("*.npy")
    for place in flips(path, 6):
        told = Told()
        assert torch.equal(ends(lambda x, t, labels: x / 2, told), expected), place
        assert "computed again" in told.messages[0]


def test_weights_and_checkpoints(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"w": torch.arange(30.0), "n": torch.tensor(3)}, {"student": "a", "steps": 12})
    whole, header = load_tensors(path, "make it again")
    for place in flips(path, 80):
        try:
            found, said = load_tensors(path, "make it again")
        except DamagedFileError:
            continue
        assert said == header, place
        assert all(torch.equal(found[name], whole[name]) for name in whole), place


def test_cards_and_their_weights(tmp_path):
    arguments = {"channels": 1, "size": 8, "width": 4, "blocks": 1, "embedding": 4}
    network = build_network("mlp", arguments, generator("tests"))
    card = write_card(TeacherCard, tmp_path, network, name="a", summary="a", dataset="digits", network="mlp",
                      arguments=arguments, licence="x", command="x", process="vp", parameterisation="x0")  # fmt: skip
    path = tmp_path / "a.toml"
    for place in flips(path, 80):
        try:
            found, _ = read_card(str(path), TeacherCard)
        except (ConfigError, DamagedFileError):
            continue
        assert found == card, place
    for _ in flips(tmp_path / card.file):
        with pytest.raises(DamagedFileError):
            read_weights(card, tmp_path)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs", create=True)
    store.write(record())
    return store


def test_records(store):
    (expected,) = store.records()
    for place in flips(store.root / record().folder / RECORD, 150):
        found = Store(store.root).records()
        if not found:
            continue
        # the seal's own name or fields may be hit, and then become a field that nobody knows
        assert found[0].model_dump(include=set(type(expected).model_fields)) == expected.model_dump(
            include=set(type(expected).model_fields)
        ), place


def test_the_index(store):
    (expected,) = store.records()
    for place in flips(store.root / INDEX, 60):
        assert Index(store.root).read().untidy, place
        assert Store(store.root).records() == [expected], place


def test_plans(tmp_path):
    plan = Plan(
        table="t", tier="small", protocol="raw", metric="fd_pixel", seeds=(0, 1), looks=(2,), cells={}, claims={}
    )
    registered = register(tmp_path, plan)
    (path,) = (tmp_path / "plans").glob("*.json")
    for place in flips(path, 200):
        found, damaged = registered_plans(tmp_path)
        assert found == [registered] or damaged, place


def test_the_marker_of_a_store(store):
    expected = store.records()
    for _ in flips(store.root / "tractbench-store.json"):
        try:
            found = Store(store.root)
            assert found.records() == expected or found.damaged
        except (DamagedFileError, StoreError):
            continue


def picture_pixels(path):
    return np.asarray(Image.open(path))


def test_pictures_and_loss_curves(tmp_path):
    picture = tmp_path / "samples.png"
    save_mosaic(picture, torch.rand(4, 1, 8, 8), 2)
    expected = picture_pixels(picture)
    assert intact_picture(picture)
    refused = 0
    for place in flips(picture, 60):
        if intact_picture(picture):  # the checksum of the empty part at the end is not looked at
            assert np.array_equal(picture_pixels(picture), expected), place
        else:
            refused += 1
    assert refused > 50
    curve = tmp_path / "loss.csv"
    curve.write_bytes(b"step,phase,images,loss\n1,1,32,0.5\n")
    save_tensors(tmp_path / STUDENT, {}, {LOSSES_HASH: hashlib.sha256(curve.read_bytes()).hexdigest()})
    assert intact_losses(curve)
    for _ in flips(curve):
        assert not intact_losses(curve)


def test_a_seal_is_of_values_and_not_of_bytes():
    value = {"a": [1.5, float("inf"), "ä"], "b": None}
    text = json.dumps(sealed(value), indent=4).replace("\n", "\r\n")
    assert unsealed(json.loads(text)) == value
    assert unsealed(json.loads(text) | {"note": "kept"}) == value | {"note": "kept"}
    assert unsealed({"a": 1}) == {"a": 1}
    for change in ({"a": [1.5]}, {"seal": 3}, {"seal": {"fields": ["c"], "sha256": ""}}):
        with pytest.raises(BrokenSealError):
            unsealed(json.loads(text) | change)
