"""What a feature extractor promises: an image's features are its own, and the same every time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tractbench.checks.finding import Check, Finding, examine, require, untouched
from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.evaluation.extractors.base import Extractor, extractor_class, load_extractor
from tractbench.plugins import find
from tractbench.registry import dataset_names, load_dataset

COUNT = 12


@dataclass(frozen=True)
class Case:
    """An extractor of a data set's images."""

    extractor: Extractor
    dataset: Dataset

    @property
    def images(self) -> Tensor:
        """Some images as the data set keeps them."""
        return self.dataset.held_out[:COUNT]


def check_extractor(name: str) -> Iterator[Finding]:
    """Yield what the contract test finds of an extractor, on the first data set at hand that it is for.

    Of one whose weights are not here nothing is checked, and no test fetches gigabytes.

    Raises:
        ConfigError: it cannot be loaded, or is for no data set that is on this machine.
    """
    name, last = find("extractors", name).name, ""
    if (missing := extractor_class(name).missing()) is not None:
        yield Finding("feature extractor", name, "weights", "does not apply", missing)
        return
    for dataset_name in dict.fromkeys(("digits", *dataset_names())):
        try:
            dataset = load_dataset(dataset_name)
            if dataset.files is not None and not dataset.files.manifests():
                continue
            case = Case(load_extractor(name, dataset), dataset)
        except ConfigError as error:
            last = last or str(error)
            continue
        yield from examine("feature extractor", name, case, CHECKS)
        return
    raise ConfigError(f"feature extractor '{name}' is for no data set on this machine: {last}")


def check_shape(case: Case) -> str:
    """Check that features are finite floats, a row of the same length for each image."""
    features = untouched("an extractor", lambda: case.extractor(case.images))
    require(
        features.ndim == 2 and len(features) == COUNT,
        f"features have shape {tuple(features.shape)} for {COUNT} images",
        "return [B, D]",
    )
    require(features.is_floating_point(), f"features are {features.dtype}", "return floats")
    require(not features.requires_grad, "features carry a gradient", "compute them under torch.no_grad()")
    require(bool(features.isfinite().all()), "features are not finite", "mind divisions by 0")
    spread = float(features.double().std(0).max())
    require(spread > 0, "all images have the same features", "compute them from the images")
    return f"{features.shape[1]} features of {case.dataset.name}'s images, {features.dtype}"


def check_deterministic(case: Case) -> str:
    """Check that the same images have the same features, and are left as they are."""
    images = case.images.clone()
    first, second = case.extractor(images), case.extractor(images)
    require(torch.equal(images, case.images), "it changes the images that it is given", "work on a copy")
    require(
        torch.equal(first, second),
        "the same images have other features the second time",
        "draw no random numbers; put networks into evaluation mode",
    )
    other = type(case.extractor)(case.dataset)
    require(
        torch.equal(first, other(images)),
        "another one of its kind has other features",
        "keep weights in a file, and load them",
    )
    require(
        bool(case.extractor.hash) and case.extractor.hash == other.hash,
        "its hash is empty or not the same twice",
        "return the sha256 of its weights, or a name of what is computed",
    )
    return f"hash {case.extractor.hash[:12]}"


def check_batches(case: Case) -> str:
    """Check that an image's features do not depend on the other images of its batch."""
    whole = case.extractor(case.images).double()
    parts = torch.cat([case.extractor(case.images[:1]), case.extractor(case.images[1:])]).double()
    require(parts.shape == whole.shape, "the number of features depends on the batch", "return [B, D]")
    worst = float((whole - parts).abs().max() / whole.abs().max())
    require(worst < 1e-4, f"features differ by {worst:.2g} with the batch", "put networks into evaluation mode")
    return f"one by one the same to {worst:.0e}"


CHECKS = (
    Check("shape", check_shape),
    Check("deterministic", check_deterministic),
    Check("batches", check_batches),
)
