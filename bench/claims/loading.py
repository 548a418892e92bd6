"""Reading tables from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from tractbench.claims.fields import Scalar
from tractbench.claims.table import Table
from tractbench.errors import ConfigError, TractbenchError, nearest_name


def shipped_tables() -> Path:
    """Return the folder of the tables that come with the package."""
    import tractbench.tables

    return Path(tractbench.tables.__path__[0])


def load_tables(folder: Path | None = None) -> dict[str, Table]:
    """Read every ``*.toml`` file of a folder.

    Args:
        folder: the user's own tables; None means those of the package.

    Returns:
        The tables by name, in the order of their names.

    Raises:
        ConfigError: there is none, or one is damaged; the message names the file and the key.
    """
    folder = folder or shipped_tables()
    tables = {path.stem: _read(path) for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}
    if not tables:
        raise ConfigError(f"no tables in {folder}; name a folder with *.toml files, or leave --tables out")
    return tables


def _read(path: Path) -> Table:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read table {path}: {error.strerror}; mend its permissions or remove it") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"table {path} is not TOML: {error}; mend it") from error
    try:
        return Table.model_validate({**data, "name": path.stem})
    except TractbenchError as error:
        raise ConfigError(f"table {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        value = f" {first['input']!r}" if isinstance(first["input"], Scalar) else ""
        place = f"{key}{value}: " if key else ""
        raise ConfigError(f"table {path}: {place}{message[0].lower()}{message[1:]}; mend it") from error


def find_table(tables: Mapping[str, Table], name: str) -> Table:
    """Return a table by its name; a ConfigError names the nearest one."""
    if name not in tables:
        raise ConfigError(f"unknown table {name!r}{nearest_name(name, tables)}")
    return tables[name]
