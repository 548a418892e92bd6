"""Modules of this package as one file that needs none of it, made of their sources without changing a definition."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

OWN = "tractbench"
FUTURE = "from __future__ import annotations"


@dataclass
class _Bundle:
    """What is gathered: other packages' imports, and the bodies of modules, each after those that it imports."""

    imports: set[str] = field(default_factory=set)
    bodies: dict[str, str] = field(default_factory=dict)
    defined: dict[str, str] = field(default_factory=dict)


def bundled(modules: Sequence[str], title: str, last: str = "") -> str:
    """Return the source of one file with modules of this package and all others of it that they import.

    Definitions stay as they are; imports from this package fall away, as all names are there. Where a module is
    imported as a whole, such as ``unet``, a namespace of that name holds what it defines. Nothing is executed.

    Args:
        modules: their full names.
        title: the file's docstring.
        last: the file's last line.

    Raises:
        ValueError: two modules define one name, or a name of this package is imported under another one.
    """
    bundle = _Bundle()
    for module in modules:
        _add(module, bundle)
    imports = sorted(bundle.imports - {FUTURE}, key=lambda line: (line.startswith("from"), line))
    parts = [f'"""{title}"""', FUTURE, "\n".join(imports)]
    parts += [f"\n# from {name}\n\n{body}" for name, body in bundle.bodies.items()]
    return "\n\n".join([*parts, *([last] if last else [])]) + "\n"


def _add(name: str, bundle: _Bundle) -> None:
    if name in bundle.bodies:
        return
    source = _file(name).read_text(encoding="utf-8")
    tree = ast.parse(source)
    namespaces: list[str] = []
    gone: set[int] = set()
    for index, node in enumerate(tree.body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _import(node, bundle, namespaces)
        elif index or ast.get_docstring(tree) is None:
            _define(node, name, bundle)
            continue
        gone.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kept = "\n".join(line for number, line in enumerate(source.splitlines(), 1) if number not in gone)
    bundle.bodies[name] = "\n".join([*namespaces, kept]).strip("\n")


def _import(node: ast.Import | ast.ImportFrom, bundle: _Bundle, namespaces: list[str]) -> None:
    """Take an import over or, in its place, the module of this package that it is from."""
    source = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
    if source.partition(".")[0] != OWN:
        bundle.imports.add(ast.unparse(node))
        return
    for alias in node.names:
        if alias.asname:
            raise ValueError(f"{ast.unparse(node)}: a name of this package under another one cannot be bundled")
        whole = f"{source}.{alias.name}"
        if not (_file(source).parent / f"{alias.name}.py").is_file() or _file(source).name != "__init__.py":
            _add(source, bundle)
            continue
        _add(whole, bundle)
        names = [name for name, where in bundle.defined.items() if where == whole]
        bundle.imports.add("from types import SimpleNamespace")
        namespaces.append(f"{alias.name} = SimpleNamespace({', '.join(f'{name}={name}' for name in names)})")


def _file(module: str) -> Path:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"there is no source of {module}")
    return Path(found.origin)


def _define(node: ast.stmt, module: str, bundle: _Bundle) -> None:
    """Note what a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        names = [node.name]
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
    else:
        names = []
    for name in names:
        if bundle.defined.setdefault(name, module) != module:
            raise ValueError(f"{module} and {bundle.defined[name]} both define {name}")
