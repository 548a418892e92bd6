"""``tractbench data``: options that choose, and options that do not go together."""

import pytest
from data_files import cifar_files, npz_files, pixels
from PIL import Image


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACTBENCH_CACHE", str(tmp_path / "cache"))


def refused(done, *words):
    assert done.code == 2
    assert done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_one_split_can_be_chosen(tractbench, tmp_path):
    root = cifar_files(tmp_path / "files")
    done = tractbench("data", "prepare", "cifar10", root, "--split", "held_out", "--allow-deviation", "--json", "-q")
    assert [manifest["split"] for manifest in done.json] == ["held_out"]
    refused(tractbench("data", "prepare", "cifar10", root, "--split", "held-out"), "did you mean 'held_out'")
    folder = npz_files(tmp_path)
    done = tractbench("data", "prepare", "imagenet64:npz", folder, "--split", "held_out", "-q", "--allow-deviation")
    refused(done, "no held_out images")


def test_a_filter_is_short_for_the_name(tractbench, tmp_path):
    (tmp_path / "in" / "n0").mkdir(parents=True)
    Image.fromarray(pixels(0, 1, 90)[0].transpose(1, 2, 0)).save(tmp_path / "in" / "n0" / "x.png")
    done = tractbench(
        "data", "prepare", "imagenet64", tmp_path / "in", "--filter", "lanczos", "--allow-deviation", "--json", "-q"
    )
    assert done.json[0]["dataset"] == "imagenet64:lanczos"
    refused(tractbench("data", "prepare", "imagenet64", tmp_path, "--filter", "lanzos"), "did you mean 'lanczos'")
    refused(tractbench("data", "prepare", "imagenet64:npz", tmp_path, "--filter", "lanczos"), "one of the two")
    refused(tractbench("data", "prepare", "cifar10", tmp_path, "--filter", "conditional"), "--filter", "cifar10")


def test_options_that_would_do_nothing_are_refused(tractbench, tmp_path):
    refused(tractbench("data", "prepare", "cifar10", tmp_path, "--download"), "--download", "one of the two")
    refused(tractbench("data", "prepare", "cifar10", tmp_path, "--url", "https://x"), "--url", "--download")


def test_every_source_of_pixels_is_listed(tractbench):
    names = [entry["name"] for entry in tractbench("data", "list", "--json").json]
    assert names == ["cifar10", "imagenet64", *(f"imagenet64:{s}" for s in ("lanczos", "area", "crop", "npz", "zip"))]
