"""Finds components - methods, data sets, feature extractors, networks, processes, workloads - by their names.

This package's own and those of other distributions are found in the same way, by entry points in the groups
``tractbench.methods``, ``.datasets``, ``.extractors``, ``.networks``, ``.processes`` and ``.workloads``. Files that are
not installed offer what they define once :func:`use_files` names them. Names are compared without regard to case, and
with hyphens as underscores. A component is imported when somebody asks for it, so that a broken one stops nobody else.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, distribution, distributions, packages_distributions
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeVar, cast

from tractbench.errors import ConfigError, nearest_name

Kind = Literal["methods", "datasets", "extractors", "networks", "processes", "workloads"]

WORDS: Mapping[Kind, str] = {
    "methods": "method",
    "datasets": "data set",
    "extractors": "feature extractor",
    "networks": "network",
    "processes": "process",
    "workloads": "workload",
}
"""What one of each kind is called; the entry-point group of a kind is ``tractbench.KIND``."""

BASES: Mapping[str, Kind] = {
    "tractbench.method.Method": "methods",
    "tractbench.datasets.base.Dataset": "datasets",
    "tractbench.evaluation.extractors.base.Extractor": "extractors",
    "torch.nn.modules.module.Module": "networks",
    "tractbench.diffusion.processes.Process": "processes",
}
"""What a class of a file is, by the base that it has."""

OWN = "tractbench"

Base = TypeVar("Base")
Function = TypeVar("Function", bound=Callable[..., object])

_forgetting: list[Callable[[], None]] = []


def remembered(function: Function) -> Function:
    """Keep what a function returns of components for its arguments, until :func:`forget`."""
    kept = lru_cache(maxsize=256)(function)
    _forgetting.append(kept.cache_clear)
    return cast("Function", kept)


@dataclass(frozen=True)
class Component:
    """Something that a distribution or a file offers.

    Attributes:
        kind: what it is.
        name: as it is declared.
        value: where it lies, ``module:attribute`` or a file.
        origin: who offers it: a distribution with its version, or a file.
        source: the entry point, or what a file defines.
    """

    kind: Kind
    name: str
    value: str
    origin: str
    source: object

    def load(self) -> object:
        """Return the component itself.

        Raises:
            ConfigError: its module fails, in whatever way; the message names it, its origin and the reason.
        """
        if not isinstance(self.source, EntryPoint):
            return self.source
        try:
            return _loaded(self.source)
        except (Exception, SystemExit) as error:  # a plugin may fail in any way; the user has to know which
            raise ConfigError(
                f"{WORDS[self.kind]} {self.name} = {self.value} of {self.origin} cannot be imported "
                f"({_reason(error)}); uninstall or mend it"
            ) from error


@remembered
def _loaded(entry: EntryPoint) -> object:
    return entry.load()


def normal(name: str) -> str:
    """Return a name as names are compared."""
    return name.strip().lower().replace("-", "_")


def components(kind: Kind) -> Mapping[str, tuple[Component, ...]]:
    """Return all that is offered of a kind, by its normal name, this package's first; nothing of it is imported.

    Of a name that several offer all are there, and none can be loaded.
    """
    return _found(tuple(sys.path), tuple(_files)).offers[kind]


def complaints() -> tuple[str, ...]:
    """Return what is wrong with distributions and files of which not even the names can be read."""
    return _found(tuple(sys.path), tuple(_files)).complaints


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names of a kind's components as they are declared, sorted."""
    return tuple(sorted(offers[0].name for offers in components(kind).values()))


def find(kind: Kind, name: str) -> Component:
    """Return the one component of a name.

    Raises:
        ConfigError: there is none, and the message has the nearest one, or several distributions offer it.
    """
    offers = components(kind).get(normal(name), ())
    if len(offers) > 1:
        origins = " and ".join(offer.origin for offer in offers)
        raise ConfigError(f"{WORDS[kind]} '{offers[0].name}' is offered by {origins}; uninstall or rename one of them")
    if not offers:
        if kind != "workloads" and not _installed(kind):
            raise ConfigError(
                f"unknown {WORDS[kind]} {name!r}: not even tractbench's own are registered; install it again, in a "
                "checkout with 'pip install -e .'"
            )
        raise ConfigError(f"unknown {WORDS[kind]} {name!r}{nearest_name(name, names(kind))}")
    return offers[0]


def _installed(kind: Kind) -> bool:
    """Whether this package's own components are registered; those of an old installation of a checkout are not."""
    return any(offer.origin.startswith(f"{OWN} ") for offers in components(kind).values() for offer in offers)


def load_class(kind: Kind, name: str, base: type[Base]) -> type[Base]:
    """Return the component of a name, a class.

    Raises:
        ConfigError: there is none of that name, it cannot be imported, or it is something else than it should be.
    """
    found = find(kind, name)
    loaded = found.load()
    where = f"{found.name} = {found.value} of {found.origin}"
    if not (inspect.isclass(loaded) and issubclass(loaded, base)):
        raise ConfigError(f"entry point {where} is not a {base.__name__}; name a class that is one")
    said = getattr(loaded, "name", None)
    if kind != "networks" and not (isinstance(said, str) and normal(said) == normal(name)):
        raise ConfigError(f"entry point {where} is not a {base.__name__} named '{found.name}'; write that name in both")
    if inspect.isabstract(loaded):
        missing = sorted(getattr(loaded, "__abstractmethods__", ()))
        raise ConfigError(f"{where} is not finished: define {', '.join(missing)}")
    return loaded


# Files that are not installed

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
        raise ConfigError(f"plugin {path} cannot be executed ({_reason(error)}); mend it") from error
    _file_hashes[module.__name__] = hashlib.sha256(source).hexdigest()
    return module


_file_hashes: dict[str, str] = {}
"""Of the files that were executed, by their modules' names: what was executed, even if the file has changed since."""


# What there is


@dataclass(frozen=True)
class _Found:
    offers: Mapping[Kind, Mapping[str, tuple[Component, ...]]]
    complaints: tuple[str, ...]


@remembered
def _found(path: tuple[str, ...], files: tuple[Path, ...]) -> _Found:
    """Look through the distributions on a path and through files."""
    offers: dict[Kind, dict[str, tuple[Component, ...]]] = {kind: {} for kind in WORDS}
    wrong: list[str] = []
    found: list[Component] = []
    for dist in _distributions(path):
        try:
            found += _declared(dist)
        except Exception as error:  # one distribution's damaged metadata are nobody else's
            wrong.append(f"the entry points of {_title(dist)} cannot be read ({_reason(error)}); install it again")
    for file in files:
        try:
            found += file_components(file)
        except ConfigError as error:
            wrong.append(str(error))
    for component in found:
        of_kind = offers[component.kind]
        of_kind[normal(component.name)] = (*of_kind.get(normal(component.name), ()), component)
    return _Found(offers, tuple(wrong))


def _distributions(path: tuple[str, ...]) -> list[Distribution]:
    """Return the distributions with components, this one first, each once: of two of one name Python sees the first.

    The others' metadata are not read: that would take longer than all the rest of a short command.
    """
    seen: dict[str, Distribution] = {}
    for dist in distributions(path=list(path)):
        if _declares(dist):
            seen.setdefault(normal(_title(dist).partition(" ")[0]).replace(".", "_"), dist)
    return sorted(seen.values(), key=lambda dist: not _title(dist).startswith(f"{OWN} "))


def _declares(dist: Distribution) -> bool:
    try:
        return f"[{OWN}." in (dist.read_text("entry_points.txt") or "")
    except Exception:  # it is named when it is read again
        return True


def _title(dist: Distribution) -> str:
    try:
        return f"{dist.metadata['Name']} {dist.version}"
    except Exception:  # no metadata, or unreadable ones
        return str(getattr(dist, "_path", "a distribution"))


def _declared(dist: Distribution) -> Iterator[Component]:
    for kind in WORDS:
        for entry in dist.entry_points.select(group=f"tractbench.{kind}"):
            yield Component(kind, entry.name, entry.value, _title(dist), entry)


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def forget() -> None:
    """Forget what was found, as a new process would: distributions or files may have changed."""
    for one in _forgetting:
        one()


# What of a plugin decides the numbers


def distribution_hash(component: type) -> str | None:
    """Return the sha256 of everything in the distribution or file that a class comes from, None for a built-in.

    A component's source alone does not decide what it computes: its package's other modules and data do too.
    """
    package = component.__module__.partition(".")[0]
    if package == OWN:
        return None
    return _file_hashes.get(package) or _package_hash(package)


def plugin_hashes(*components: type) -> list[str]:
    """Return the hashes of those of some classes that are no built-ins: identities grow by nothing without one."""
    return [found for component in components if (found := distribution_hash(component)) is not None]


@remembered
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
