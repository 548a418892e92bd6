"""Methods and data sets by name; how they are found says :mod:`tractbench.plugins`."""

from __future__ import annotations

import inspect
from typing import Any

from tractbench.datasets.base import Dataset
from tractbench.errors import ConfigError
from tractbench.method import Method
from tractbench.plugins import load_class, names


def method_names() -> tuple[str, ...]:
    """Return the names of every installed method."""
    return names("methods")


def dataset_names() -> tuple[str, ...]:
    """Return the names of every installed data set."""
    return names("datasets")


def load_method(name: str) -> type[Method]:
    """Return the method class called ``name``.

    Raises:
        ConfigError: there is none of that name, the message has the nearest one, or it cannot be loaded.
    """
    return load_class("methods", name, Method)


def load_dataset(name: str) -> Dataset:
    """Return the data set called ``name``, or ``name:argument`` for one that takes an argument.

    Raises:
        ConfigError: there is none of that name, the message has the nearest one, or it cannot be loaded.
    """
    name, colon, argument = name.partition(":")
    dataset = load_class("datasets", name, Dataset)
    if not colon:
        return dataset()
    if not inspect.signature(dataset).parameters:
        raise ConfigError(f"data set {name!r} takes no argument; leave {':' + argument!r} out")
    make: Any = dataset
    chosen: Dataset = make(argument)
    return chosen
