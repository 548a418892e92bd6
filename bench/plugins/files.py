"""Files that are not installed: what they define is offered once :func:`use_files` names them."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

from tractbench.errors import ConfigError
from tractbench.plugins.offers import Component, Kind, reason, remembered

BASES: Mapping[str, Kind] = {
    "tractbench.method.Method": "methods",
    "tractbench.datasets.base.Dataset": "datasets",
    "tractbench.evaluation.extractors.base.Extractor": "extractors",
    "torch.nn.modules.module.Module": "networks",
    "tractbench.diffusion.processes.Process": "processes",
}
"""What a class of a file is, by the base that it has."""

_files: list[Path] = []


def use_files(files: Iterable[Path]) -> None:
    """Offer what these files define, instead of what the files of an earlier call did.

    A Python file is executed when a component is first looked for. Of its classes count those that it defines and
    gives a ``name``; a TOML file is a workload.
    """
    _files[:] = dict.fromkeys(path.expanduser().resolve() for path in files)


def used_files() -> tuple[Path, ...]:
    """Return the files that are used, absolute."""
    return tuple(_files)


def file_components(path: Path) -> tuple[Component, ...]:
    """Return what a file offers; a Python file is executed, once.

    Raises:
        ConfigError: it cannot be read, it fails, or it offers nothing.
    """
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"cannot read plugin {path}: no such file; give the path of a .py or .toml file")
        return (Component("workloads", path.stem, str(path), str(path), path),)
    module = _executed(path)
    found = []
    for attribute, value in vars(module).items():
        if inspect.isclass(value) and value.__module__ == module.__name__ and isinstance(vars(value).get("name"), str):
            bases = (f"{base.__module__}.{base.__qualname__}" for base in value.__mro__)
            if kind := next((BASES[base] for base in bases if base in BASES), None):
                found.append(Component(kind, vars(value)["name"], f"{path}:{attribute}", str(path), value))
    if not found:
        raise ConfigError(f"plugin {path} defines no component: give a class of it a base such as Method and a name")
    return tuple(found)


@remembered
def _executed(path: Path) -> ModuleType:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read plugin {path}: {error.strerror}; give the path of a Python file") from error
    module = ModuleType(f"tractbench_plugin_{hashlib.sha256(bytes(path)).hexdigest()[:12]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - their own file, which they asked to run
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ConfigError(f"plugin {path} cannot be executed ({reason(error)}); mend it") from error
    _file_hashes[module.__name__] = hashlib.sha256(source).hexdigest()
    return module


_file_hashes: dict[str, str] = {}
"""Of the files that were executed, by their modules' names: what was executed, even if the file has changed since."""


def file_hash(module: str) -> str | None:
    """Return the sha256 of the file that a module was executed from, None for a module that comes from elsewhere."""
    return _file_hashes.get(module)
