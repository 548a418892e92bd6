"""Finds methods and data sets: the built-in ones by module name, others by entry point, each loaded on request.

A module ``tractbench.methods.NAME`` holds the method NAME; a distribution adds others with the entry-point groups
``tractbench.methods`` and ``tractbench.datasets``.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from functools import cache, lru_cache
from importlib.metadata import distribution, entry_points, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tractbench.errors import ConfigError, nearest_name

if TYPE_CHECKING:
    from tractbench.datasets.base import Dataset
    from tractbench.method import Method

Component = TypeVar("Component")

SHARED = frozenset({"base", "workload"})
"""Modules beside the components that are none themselves."""


@cache
def _built_in(package: str) -> dict[str, str]:
    path = importlib.import_module(package).__path__
    modules = (module.name for module in pkgutil.iter_modules(path) if module.name not in SHARED and not module.ispkg)
    return {name: f"{package}.{name}" for name in modules}


def _names(package: str) -> tuple[str, ...]:
    return tuple(sorted({*_built_in(package), *(entry.name for entry in entry_points(group=package))}))


def _load(package: str, kind: str, name: str, base: type[Component]) -> type[Component]:
    name = name.lower().replace("-", "_")
    built_in = _built_in(package)
    if name in built_in:
        module = importlib.import_module(built_in[name])
        classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)]
        return next(value for value in classes if getattr(value, "name", None) == name)
    for entry in entry_points(group=package):
        if entry.name == name:
            try:
                loaded: Any = entry.load()
            except Exception as error:  # a plugin may fail in any way; the user has to know which
                reason = f"{type(error).__name__}: {error}".replace("\n", " ")
                raise ConfigError(
                    f"plugin {name} = {entry.value} cannot be imported ({reason}); uninstall or mend it"
                ) from error
            if not (inspect.isclass(loaded) and issubclass(loaded, base)) or getattr(loaded, "name", None) != name:
                raise ConfigError(f"entry point {name} = {entry.value} is not a {base.__name__} named '{name}'")
            return loaded
    raise ConfigError(f"unknown {kind} {name!r}{nearest_name(name, _names(package))}")


def method_names() -> tuple[str, ...]:
    """Return the names of every installed method."""
    return _names("tractbench.methods")


def dataset_names() -> tuple[str, ...]:
    """Return the names of every installed data set."""
    return _names("tractbench.datasets")


def load_method(name: str) -> type[Method]:
    """Return the method class called ``name``; a ConfigError names the nearest one."""
    from tractbench.method import Method

    return _load("tractbench.methods", "method", name, Method)


def load_dataset(name: str) -> Dataset:
    """Return the data set called ``name``, or ``name:argument`` for one that takes an argument.

    Raises:
        ConfigError: there is none of that name; the message has the nearest one.
    """
    from tractbench.datasets.base import Dataset

    name, colon, argument = name.partition(":")
    dataset = _load("tractbench.datasets", "data set", name, Dataset)
    if not colon:
        return dataset()
    if not inspect.signature(dataset).parameters:
        raise ConfigError(f"data set {name!r} takes no argument; leave {':' + argument!r} out")
    make: Any = dataset
    chosen: Dataset = make(argument)
    return chosen


def distribution_hash(component: type) -> str | None:
    """Return the sha256 of everything in the distribution that a class comes from, None for a built-in.

    A component's source alone does not decide what it computes: its package's other modules and data do too.
    """
    package = component.__module__.partition(".")[0]
    return None if package == "tractbench" else _package_hash(package)


@lru_cache
def _package_hash(package: str) -> str:
    """Return the sha256 of the names and contents of a top-level package's files and of those installed with it."""
    files: dict[str, Path] = {}
    for name in packages_distributions().get(package, []):
        for entry in distribution(name).files or ():
            path = Path(str(entry.locate()))
            if ".dist-info" not in entry.parts[0] and path.is_file():
                files[entry.as_posix()] = path
    module = importlib.import_module(package)
    source = Path(inspect.getfile(module)) if module.__file__ else None
    if source is not None:  # an editable installation lists none of it
        tree = source.parent.rglob("*") if source.name == "__init__.py" else [source]
        files |= {f"{package}/{path.relative_to(source.parent).as_posix()}": path for path in tree if path.is_file()}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        if path.suffix not in (".pyc", ".pth") and "__pycache__" not in path.parts:
            digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()
