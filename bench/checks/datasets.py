"""What a data set promises: images on a grid of grey levels, a split, a name of its own, settings that run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tractbench.checks.case import GRID, resolved, some_method
from tractbench.checks.finding import Check, Finding, examine, inapplicable, require, untouched
from tractbench.checks.training import check_run
from tractbench.checks.workloads import check_networks, check_presets
from tractbench.datasets.base import Dataset
from tractbench.registry import load_dataset

SOME = 64
LIMIT = 1 << 16
"""Images of each split that are compared with the other."""
SHARED = 0.01
"""Share of held-out images that may be training images: published splits have some."""


def check_dataset(name: str) -> Iterator[Finding]:
    """Yield what the contract test finds of a data set, ``NAME`` or ``NAME:ARGUMENT``.

    Raises:
        ConfigError: it cannot be loaded.
    """
    dataset = load_dataset(name)
    yield from examine("data set", dataset.name, dataset, CHECKS)


def _here(dataset: Dataset) -> Dataset:
    """Return a data set whose images are on this machine."""
    files = dataset.files
    if files is not None and not files.manifests():
        inapplicable(f"it is not prepared here; see 'tractbench data prepare {dataset.name} --help'")
    return dataset


def check_images(dataset: Dataset) -> str:
    """Check that both splits have images of the shape it says."""
    shape, known = dataset.shape, _here(dataset).distribution is not None
    require(len(shape) == 3 and shape[1] == shape[2], f"shape is {shape}", "give (C, H, W) with H = W")
    for split, images in _splits(dataset).items():
        require(
            images.ndim == 4 and tuple(images.shape[1:]) == tuple(shape),
            f"{split} has shape {tuple(images.shape)}, not [N, {', '.join(map(str, shape))}]",
            "return [N, C, H, W]",
        )
        require(known or images.dtype == torch.uint8, f"{split} is {images.dtype}", "return grey levels, uint8")
        require(len(images) > 1, f"{split} has {len(images)} images", "give each split some")
        if images.dtype == torch.uint8:
            highest = int(images[:LIMIT].max())
            require(
                highest < dataset.levels,
                f"{split} has grey level {highest} of {dataset.levels}",
                "let levels be one more than the highest",
            )
    require(
        dataset.training_images == len(dataset.train),
        f"train_count is {dataset.training_images}, there are {len(dataset.train)}",
        "say how many there are",
    )
    return f"{len(dataset.train):,} to train on, {len(dataset.held_out):,} held out"


def check_levels(dataset: Dataset) -> str:
    """Check that decoding gives float32 in [-1, 1], and quantising gives back what was decoded."""
    images = _here(dataset).train[:SOME]
    before = images.clone()
    decoded = untouched("decode()", lambda: dataset.decode(images))
    require(torch.equal(images, before), "decode() changes what it is given", "work on a copy")
    require(
        decoded.dtype == torch.float32 and decoded.shape == images.shape,
        f"decode() gives {decoded.dtype} of shape {tuple(decoded.shape)}",
        "return float32 of the same shape",
    )
    require(bool(decoded.isfinite().all()), "decoded images are not finite", "look at decode()")
    if dataset.clips:
        largest = float(decoded.abs().max())
        require(
            largest <= 1,
            f"decoded images reach {largest:.3g}, but predictions are clipped to [-1, 1]",
            "scale them, or set clips = False for data without bounds",
        )
    back = dataset.quantise(decoded)
    require(torch.equal(back, images), "quantise(decode(x)) is not x", "let quantise() round to the nearest level")
    spread = float(decoded.double().std())
    return f"round trip exact, standard deviation {spread:.2g}"


def check_labels(dataset: Dataset) -> str:
    """Check that classes are whole numbers below the number of classes, one for each training image."""
    labels = _here(dataset).train_labels
    if dataset.classes == 0:
        require(labels is None, "train_labels are given, but classes is 0", "set classes, or return None")
        inapplicable("its runs are not conditional")
    require(labels is not None, f"classes is {dataset.classes}, but train_labels is None", "return classes [N]")
    assert labels is not None
    require(
        labels.shape == (len(dataset.train),) and labels.dtype == torch.int64,
        f"labels are {labels.dtype} of shape {tuple(labels.shape)}",
        "return int64 [N]",
    )
    low, high = int(labels.min()), int(labels.max())
    require(
        low >= 0 and high < dataset.classes,
        f"labels go from {low} to {high} of {dataset.classes} classes",
        "count classes from 0",
    )
    return f"{len(set(labels.tolist()))} of {dataset.classes} classes"


def check_fingerprint(dataset: Dataset) -> str:
    """Check that its fingerprint is the same for another object, and its images too."""
    other = load_dataset(_here(dataset).name)
    require(len(dataset.fingerprint) == 64, f"fingerprint is {dataset.fingerprint!r}", "leave it to the base class")
    require(
        other.fingerprint == dataset.fingerprint,
        "the fingerprint differs from one object to the next",
        "let contents depend on images and labels alone",
    )
    for split, images in _splits(dataset).items():
        require(
            torch.equal(images[:LIMIT], _splits(other)[split][:LIMIT]),
            f"{split} differs from one object to the next",
            "draw no random numbers but from a seeded torch.Generator",
        )
    return dataset.fingerprint[:12]


def check_disjoint(dataset: Dataset) -> str:
    """Check that nothing held out is trained on."""
    train, held_out = ({row.numpy().tobytes() for row in images[:LIMIT]} for images in _splits(_here(dataset)).values())
    shared = len(train & held_out) / len(held_out)
    require(shared <= SHARED, f"{shared:.1%} of the held-out images are training images", "split before anything else")
    return f"{len(train & held_out)} of {len(held_out):,} held-out images are among {len(train):,} training images"


def check_smoke(dataset: Dataset) -> str:
    """Check that a small run works on each of its processes that has a teacher here."""
    said = []
    for process in _here(dataset).workload.processes:
        if process not in dataset.workload.teachers:
            continue
        method = some_method(process)
        given = {"method": method.name, "dataset": dataset.name, "process": process, "grid_steps": GRID, "nfe": 1}
        said.append(f"{process}: {check_run(resolved(given, method.trains))}")
    if not said:
        inapplicable("it has no teacher of its own; train one with 'tractbench teacher train'")
    return "; ".join(said)


def _splits(dataset: Dataset) -> dict[str, Tensor]:
    return {"train": dataset.train, "held_out": dataset.held_out}


CHECKS = (
    Check("images", check_images),
    Check("levels", check_levels),
    Check("labels", check_labels),
    Check("fingerprint", check_fingerprint),
    Check("disjoint", check_disjoint),
    Check("presets", check_presets),
    Check("networks", check_networks),
    Check("run", check_smoke),
)
