import pytest
import torch

from tractbench.datasets.base import Dataset
from tractbench.datasets.digits import Digits
from tractbench.evaluation.protocols import load_protocol
from tractbench.evaluation.scorer import make_scorer
from tractbench.registry import load_dataset


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def scorer(digits):
    return make_scorer(digits, load_protocol("raw"), 100, 500)


def test_training_images_score_zero_and_show_as_memorised(digits, scorer):
    scores = scorer.score([digits.train])
    assert scores["fd_pixel"] == pytest.approx(0, abs=1e-9)
    assert scores["fd_feature"] == pytest.approx(0, abs=1e-6)
    assert scores["nn_ratio"] == pytest.approx(0, abs=1e-6)


def test_held_out_images_score_the_floors(digits, scorer):
    scores = scorer.score([digits.held_out])
    assert scores["fd_pixel"] == pytest.approx(scorer.floors["fd_pixel"], rel=1e-9)
    assert scores["fd_feature"] == pytest.approx(scorer.floors["fd_feature"], rel=1e-6)
    assert scores["fd_pixel_held_out"] == pytest.approx(0, abs=1e-9)
    assert 0.8 < scorer.floors["nn_ratio"] < 1


def test_a_memoriser_with_noise_still_shows(digits, scorer):
    noise = torch.randint(-1, 2, digits.train.shape, generator=torch.Generator().manual_seed(0))
    noisy = (digits.train.int() + noise).clamp(0, 16).to(torch.uint8)
    assert scorer.score([noisy])["nn_ratio"] < 0.5 * scorer.floors["nn_ratio"]


@pytest.mark.parametrize("batch", [1, 7, 250])
def test_scores_do_not_depend_on_batches_of_whole_chunks(digits, scorer, batch):
    whole = scorer.score([digits.held_out])
    pieces = [torch.cat(group) for group in _groups(list(digits.held_out.split(100)), batch)]
    assert scorer.score(pieces) == whole


def _groups(chunks, together):
    return [chunks[i : i + together] for i in range(0, len(chunks), together)]


def test_the_shipped_classifier_is_right_on_held_out_digits(digits):
    from tractbench.teachers.card import FeatureCard, load_network, read_card

    card, folder = read_card("digits-classifier", FeatureCard)
    right = load_network(card, folder)(digits.decode(digits.held_out)).argmax(1) == digits.classifier_labels()[1]
    assert right.double().mean() == pytest.approx(card.accuracy)
    assert card.accuracy >= 0.97


class Unlisted(Digits):
    """The digits without their manifest, so that the images themselves are hashed."""

    contents = Dataset.contents


def test_reference_hash_changes_with_the_data(digits):
    whole, other = Unlisted(), Unlisted()
    other.__dict__["train"] = digits.train[1:]
    assert len({make_scorer(data, load_protocol("raw"), 100, 500).reference_hash for data in (whole, other)}) == 2
