import gzip
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tractbench.datasets.base import Dataset
from tractbench.datasets.digits import FILE, Digits
from tractbench.errors import ConfigError, DamagedFileError
from tractbench.registry import dataset_names, load_dataset

BROUGHT = ("cifar10", "imagenet64")  # their images are the user's: test_data.py makes some


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def labelled(images, labels):
    return Counter(
        (image.tobytes(), int(label)) for image, label in zip(np.asarray(images, np.uint8), labels, strict=True)
    )


def test_split_sizes(digits):
    assert tuple(digits.train.shape) == (1297, *digits.shape)
    assert tuple(digits.held_out.shape) == (500, *digits.shape)
    assert digits.train.dtype == digits.held_out.dtype == torch.uint8


def test_the_splits_are_all_of_scikit_learns_digits_each_once_with_its_label(digits):
    source = load_digits()
    train = labelled(digits.train[:, 0].numpy(), digits.classifier_labels()[0])
    held_out = labelled(digits.held_out[:, 0].numpy(), digits.classifier_labels()[1])
    assert train + held_out == labelled(source.images, source.target)


def test_no_image_is_in_both_splits(digits):
    train, held_out = ({image.numpy().tobytes() for image in split} for split in (digits.train, digits.held_out))
    assert not train & held_out


def test_both_splits_hold_every_class(digits):
    for labels in digits.classifier_labels():
        shares = np.bincount(labels, minlength=10) / len(labels)
        # a random tenth of 500 has a standard deviation of 0.013
        assert shares == pytest.approx([0.1] * 10, abs=0.06)


def test_ends_of_the_grey_scale(digits):
    assert digits.decode(torch.tensor([0, 8, 16], dtype=torch.uint8)).tolist() == [-1.0, 0.0, 1.0]
    assert Digits.levels == 17


def test_quantise_undoes_decode_for_every_level(digits):
    levels = torch.arange(17, dtype=torch.uint8)
    assert torch.equal(digits.quantise(digits.decode(levels)), levels)
    assert torch.equal(digits.quantise(digits.decode(levels).double()), levels)
    assert torch.equal(digits.quantise(digits.decode(digits.train)), digits.train)


def test_decoded_images_lie_in_range(digits):
    images = digits.decode(digits.train)
    assert images.dtype == torch.float32
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)


def test_quantise_takes_the_nearest_level(digits):
    values = 1.5 * (2 * torch.rand(5000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1)
    distance = (values[:, None] - torch.linspace(-1, 1, 17, dtype=torch.float64)).abs()
    assert torch.equal(digits.quantise(values).long(), distance.argmin(1))


@pytest.mark.parametrize("value", [-1e9, 1e9])
def test_quantise_holds_values_off_the_scale_at_its_ends(digits, value):
    assert int(digits.quantise(torch.tensor([value]))) == (0 if value < 0 else 16)


def test_fingerprint_is_that_of_the_data():
    assert Digits().fingerprint == load_dataset("digits").fingerprint
    assert len(Digits().fingerprint) == 64


class Unlisted(Digits):
    """The digits as a plugin would bring them, without a manifest."""

    contents = Dataset.contents
    train_labels = None


@pytest.fixture(scope="module")
def unlisted():
    return Unlisted()


def changed(attribute, change):
    dataset = Unlisted()
    setattr(dataset, attribute, change(getattr(dataset, attribute).clone()))
    return dataset


def one_pixel_up(images):
    images[3, 0, 4, 4] = (images[3, 0, 4, 4] + 1) % 17
    return images


@pytest.mark.parametrize("attribute", ["train", "held_out"])
@pytest.mark.parametrize(
    "change",
    [one_pixel_up, lambda x: x[:-1], lambda x: x.flip(0), lambda x: x.mT],
    ids=["pixel", "fewer", "order", "turn"],
)
def test_fingerprint_changes_with_the_data(unlisted, attribute, change):
    assert changed(attribute, change).fingerprint != unlisted.fingerprint


def test_fingerprint_changes_with_the_labels(unlisted):
    def labelled(labels):
        dataset = Unlisted()
        dataset.train_labels = labels
        return dataset.fingerprint

    labels = unlisted.classifier_labels()[0]
    other = torch.cat([(labels[:1] + 1) % 10, labels[1:]])
    assert len({unlisted.fingerprint, labelled(labels), labelled(other)}) == 3


def test_fingerprint_changes_where_the_split_moves(digits, unlisted):
    dataset = Unlisted()
    dataset.train, dataset.held_out = (
        torch.cat([digits.train, digits.held_out[:1]]),
        digits.held_out[1:],
    )
    assert dataset.fingerprint != unlisted.fingerprint


@pytest.mark.parametrize("base", [Digits, Unlisted])
def test_fingerprint_changes_with_the_name_and_with_how_runs_use_the_images(base):
    uses = [{"name": "renamed"}, {"levels": 256}, {"classes": 10}, {"flips": True}]
    prints = {type("Other", (base,), use)().fingerprint for use in ({}, *uses)}
    assert len(prints) == 5


def test_fingerprint_changes_with_the_shape(unlisted):
    assert changed("train", lambda x: x.reshape(-1, 1, 4, 16)).fingerprint != unlisted.fingerprint


def test_the_fingerprint_of_the_digits_needs_no_images(digits, monkeypatch, tmp_path):
    monkeypatch.setattr("tractbench.datasets.digits.FILE", tmp_path / "nothing")
    assert Digits().fingerprint == digits.fingerprint
    with pytest.raises(DamagedFileError, match=r"nothing cannot be read \(.*not found.*\); install tractbench again$"):
        _ = Digits().train


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-100], lambda c: c[:40] + bytes([c[40] ^ 1]) + c[41:], lambda c: b"0,1\n",
     lambda c: gzip.compress(b"a"), lambda c: gzip.compress(b"1,2\n"), lambda c: gzip.compress(b"1\n" * 65)],
    ids=["cut", "flipped", "plain", "letters", "short", "one column"],
)  # fmt: skip
def test_damaged_digits_are_one_line_with_the_remedy(monkeypatch, tmp_path, damage):
    path = tmp_path / FILE.name
    path.write_bytes(damage(FILE.read_bytes()))
    monkeypatch.setattr("tractbench.datasets.digits.FILE", path)
    with pytest.raises(DamagedFileError, match=r"digits.csv.gz cannot be read \(.*\); install tractbench again$"):
        _ = Digits().train


@pytest.mark.parametrize("part", ["images", "target"])
def test_other_digits_than_the_manifests_are_refused(monkeypatch, tmp_path, part):
    rows = load_digits()
    rows[part].flat[77] += 1
    other = tmp_path / "other.csv"
    np.savetxt(other, np.column_stack([rows.images.reshape(-1, 64), rows.target]), "%d", delimiter=",")
    monkeypatch.setattr("tractbench.datasets.digits.FILE", other)
    with pytest.raises(DamagedFileError, match=r"digits \w+ in .*other.csv: sha256 .*install tractbench again"):
        _ = Digits().train


def test_only_data_sets_that_are_prepared_have_files():
    assert {name for name in dataset_names() if load_dataset(name).files} == set(BROUGHT)


def test_what_a_data_set_has_no_recipe_for_is_said():
    with pytest.raises(ConfigError, match="'mixture2d' has no classifier recipe"):
        load_dataset("mixture2d").classifier()
    with pytest.raises(ConfigError, match="no recipe for a 'vp' teacher; there is one for --tier smoke"):
        load_dataset("imagenet64").recipe("vp")


def test_presets_are_found_by_tier(digits):
    first, settings = digits.preset(None, "vp")
    assert digits.preset(first, "vp") == (first, settings)
    assert first == next(iter(digits.workload.tiers))


def test_unknown_names_are_answered_with_the_nearest(digits):
    with pytest.raises(ConfigError, match="no tier 'smok'; did you mean 'smoke'"):
        digits.preset("smok", "vp")
    with pytest.raises(ConfigError, match="no recipe for a 'vpp' teacher; did you mean 'vp'"):
        digits.recipe("vpp")
    with pytest.raises(ConfigError, match="unknown data set 'digit'; did you mean 'digits'"):
        load_dataset("digit")


def test_names_are_found_whatever_their_case():
    assert isinstance(load_dataset("DIGITS"), Digits)


@pytest.mark.parametrize("name", [name for name in dataset_names() if load_dataset(name).clips and name not in BROUGHT])
def test_every_data_set_of_images_keeps_the_contract(name):
    dataset = load_dataset(name)
    assert dataset.name == name
    assert tuple(dataset.train.shape[1:]) == tuple(dataset.held_out.shape[1:]) == dataset.shape
    assert int(dataset.train.max()) < dataset.levels
    levels = torch.arange(dataset.levels, dtype=torch.uint8)
    assert torch.equal(dataset.quantise(dataset.decode(levels)), levels)
