"""Options and helpers that several verbs share."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from tractbench.cli import completion
from tractbench.cli.output import console
from tractbench.config.flags import FLAGS, parse_settings
from tractbench.errors import ConfigError, choose
from tractbench.io.cache import in_home
from tractbench.plugins import file_components, use_files, used_files

if TYPE_CHECKING:
    from tractbench.progress import Progress
    from tractbench.results.store import Store

Runs = Annotated[
    Path,
    typer.Option(
        envvar="TRACTBENCH_HOME", help="Folder of all results.", file_okay=True, show_default=True, callback=in_home
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
Tables = Annotated[
    Path | None, typer.Option(help="Folder of tables of your own (*.toml) instead of the paper's.", show_default=False)
]
Measured = Annotated[
    bool,
    typer.Option("--measured/--no-measured", help="Show the results that come with tractbench beside yours, apart."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")]
Features = Annotated[
    str | None,
    typer.Option(
        help="Distances in these extractors' features too: dinov2,clip (see 'features list').", show_default=False
    ),
]
Neighbours = Annotated[
    bool, typer.Option("--neighbours", help="Density, coverage, authenticity and C_T too, in every feature space.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no table.")]


Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting (see 'list methods --verbose'); repeatable."),
]
ConfigFile = Annotated[Path | None, typer.Option(help="TOML file of settings; flags win over it.")]


def with_settings(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb every flag of :data:`tractbench.config.flags.FLAGS`, ``--set`` and ``--config``.

    The verb takes their values as its first argument, ``settings``: what was given, by name.
    """

    @functools.wraps(verb)
    def parsed(**values: Any) -> None:
        flags = {name: values.pop(name) for name in FLAGS}
        path, pairs = values.pop("config"), values.pop("setting")
        settings = _read_config_file(path) if path else {}
        settings |= {name: value for name, value in flags.items() if value is not None}
        verb(settings | parse_settings(pairs or []), **values)

    kinds: dict[str, Any] = {
        name: Annotated[flag.kind | None, typer.Option(help=flag.help, autocompletion=completion.FLAGS.get(name))]
        for name, flag in FLAGS.items()
    }
    kinds |= {"setting": Setting, "config": ConfigFile}
    signature = inspect.signature(verb, eval_str=True)
    own = list(signature.parameters.values())[1:]
    given = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in kinds.items()
    ]
    named = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parsed.__signature__ = signature.replace(parameters=given + named)  # type: ignore[attr-defined]
    parsed.__annotations__ = kinds | {parameter.name: parameter.annotation for parameter in own}
    del parsed.__wrapped__
    return parsed


Verb = TypeVar("Verb")
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        envvar="TRACTBENCH_PLUGINS",
        help="A file of yours with components that are not installed: .py, which is executed, or .toml; repeatable.",
        show_default=False,
    ),
]


def with_plugins(verb: Callable[..., Verb]) -> Callable[..., Verb]:
    """Give a verb ``--plugin``: what these files define can be named as if it was installed.

    A file that cannot be used ends the verb, as it was asked for.
    """
    return _with_plugins(verb, file_components)


def with_any_plugins(verb: Callable[..., Verb]) -> Callable[..., Verb]:
    """Give a verb ``--plugin`` that shows itself which of the files cannot be used."""
    return _with_plugins(verb, lambda file: None)


def _with_plugins(verb: Callable[..., Verb], check: Callable[[Path], object]) -> Callable[..., Verb]:
    @functools.wraps(verb)
    def parsed(**values: Any) -> Verb:
        use_files(values.pop("plugin") or ())
        for file in used_files():
            check(file)
        return verb(**values)

    signature = inspect.signature(verb, eval_str=True)
    own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
    added = inspect.Parameter("plugin", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Plugins)
    parsed.__signature__ = signature.replace(parameters=[*own, added])  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, added)}
    del parsed.__wrapped__
    return parsed


def _read_config_file(path: Path) -> dict[str, object]:
    from tractbench.config.resolve import read_config_file

    return read_config_file(path)


def store_or_note(runs: Path, shipped: bool = False) -> Store:
    """Return the results in a folder; where there are none yet, say so and go on: tables can be shown without any.

    Args:
        runs: the folder.
        shipped: there are results that come with the package, and they are shown.
    """
    from tractbench.results.store import Store

    store = Store(runs, create=True)
    if not store.exists:
        rest = "shown is what was measured with tractbench by its developers" if shipped else ""
        print(f"no results in {runs} yet: {rest or 'everything is shown as not run'}", file=sys.stderr)
    return store


def warn_damaged(store: Store) -> None:
    """Name, one a line, what reading a store passed over."""
    for line in store.damaged:
        print(f"tractbench: {line}; see 'tractbench store check --runs {store.root}'", file=sys.stderr)


def run_folder(name: str, runs: Path, tables: Path | None) -> Path:
    """Return the folder of a run: the one named, wherever it is, or one in the store.

    Args:
        name: a run's folder, or what :func:`tractbench.export.naming.find_run` finds.
        runs: the store.
        tables: folder of tables of the user's own.

    Raises:
        ConfigError: nothing has that name, it is no run, or several runs have it.
    """
    from tractbench.claims.loading import load_tables
    from tractbench.export.naming import find_run
    from tractbench.results.store import RECORD, Store

    if (Path(name) / RECORD).is_file():
        return Path(name)
    store = Store(runs)
    folder = find_run(name, store, load_tables(tables))
    warn_damaged(store)
    return folder


@contextmanager
def working(text: str, quiet: bool = False) -> Iterator[None]:
    """Show on a terminal that something is being done whose length is not known."""
    if quiet:
        yield
        return
    with console(stderr=True).status(text):
        yield


def progress(quiet: bool) -> Progress:
    """Return what draws progress bars, or nothing."""
    from tractbench.cli.console import TerminalProgress
    from tractbench.progress import Progress

    return Progress() if quiet else TerminalProgress()


def chosen_device(name: str) -> str:
    """Return ``cpu``, ``cuda`` or ``cuda:N`` for the name that the user gave.

    Raises:
        ConfigError: there is no such device here, or runs cannot use it.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    kind = choose(kind, "device", ("auto", "cpu", "cuda", "mps"))
    if kind == "mps":
        raise ConfigError("device 'mps': it has no float64, in which times and samples are computed; use --device cpu")
    if kind != "cuda" and colon:
        raise ConfigError(f"device {name!r}: only GPUs have numbers; use --device {kind}")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ConfigError(f"device '{name}': torch sees no GPU here; use --device cpu")
        if colon and (not number.isdecimal() or int(number) >= count):
            raise ConfigError(f"device '{name}': torch sees {count} GPUs here; use --device cuda:0 to cuda:{count - 1}")
    return "cuda" + colon + number if kind == "cuda" else chosen_device("auto") if kind == "auto" else kind


CheckpointEvery = Annotated[
    str | None,
    typer.Option(
        help="Time between checkpoints: 30s, 10m, 2h; the last two are kept.",
        show_default="10m, or longer if one takes over 1% of it",
    ),
]


def checkpoint_seconds(text: str | None) -> float | None:
    """Return the seconds between checkpoints, None where nobody gives them."""
    return None if text is None else parse_duration(text)


def parse_duration(text: str) -> float:
    """Return the seconds that ``30s``, ``10m``, ``2h`` or a plain number of seconds stand for."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text.lower())
    if not match or float(match[1]) == 0:
        raise ConfigError(f"{text!r} is no length of time; give seconds, or 30s, 10m, 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
