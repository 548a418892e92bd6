"""What of a plugin decides the numbers: its whole distribution, or its file."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from tractbench.plugins.files import file_hash
from tractbench.plugins.offers import remembered

OWN = "tractbench"


def distribution_hash(component: type) -> str | None:
    """Return the sha256 of everything in the distribution or file that a class comes from, None for a built-in.

    A component's source alone does not decide what it computes: its package's other modules and data do too.
    """
    package = component.__module__.partition(".")[0]
    if package == OWN:
        return None
    return file_hash(package) or _package_hash(package)


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
        # what pip leaves for an editable installation says where the checkout lies, not what it computes
        made = path.suffix in (".pyc", ".pth") or "__pycache__" in path.parts or path.name.startswith("__editable__")
        if not made:
            digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()
