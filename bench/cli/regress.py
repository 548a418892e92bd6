"""``tractbench regress``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli.options import Json, progress, with_plugins
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError

if TYPE_CHECKING:
    from tractbench.regress.baseline import Baseline
    from tractbench.regress.compare import Comparison
    from tractbench.regress.machine import Machine

DIFFERS = 1


@with_plugins
def regress(
    baseline: Annotated[
        Path | None,
        typer.Option(help="File of figures that were kept; without it, those that ship.", show_default=False),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Only the cells of this method; repeatable.", show_default=False)
    ] = None,
    renew: Annotated[
        bool, typer.Option("--update", help="Make the figures anew on this machine instead of comparing.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option(help="Why they are made anew; kept in the file.", show_default=False)
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Also write what --json prints into this file.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> int:
    """Make tiny runs of every method and compare them with figures that were kept.

    On the kind of machine that made the figures (processor, its features, versions of torch, numpy and scipy, threads)
    weights and scores must be the same to the bit, elsewhere within a tolerance that the file states and explains.
    Exit status 0: all is equal; 1: something differs, or a run failed; 2: it cannot be compared.

    Examples:
      tractbench regress
      tractbench regress --method tract --method btd --json
      tractbench regress --plugin my_method.py --baseline regress.json --update
      tractbench regress --plugin my_method.py --baseline regress.json
    """
    from tractbench.io.files import check_writable, write_atomic
    from tractbench.regress.baseline import SHIPPED, read_baseline
    from tractbench.regress.compare import chosen_cells, compare_all
    from tractbench.regress.machine import Machine

    path, machine = baseline or SHIPPED, Machine.here()
    if renew:
        if save is not None:
            raise ConfigError(f"save {save}: --update writes the baseline itself; leave --save out")
        return _update(path, tuple(method or ()), reason, machine, as_json)
    if reason is not None:
        raise ConfigError(f"reason {reason!r}: nothing is made anew without --update; leave one of the two out")
    if save is not None:
        check_writable(save)
    kept = read_baseline(path)
    names = chosen_cells(kept, tuple(method or ()))
    found: list[Comparison] = []
    with progress(as_json).task("comparing", len(names), "cell") as task:
        for comparison in compare_all(kept, names, machine, lambda name: task.advance(0, name)):
            found.append(comparison)
            task.advance(1, comparison.cell)
    equal = all(one.equal for one in found)
    result = {"equal": equal, "cells": [asdict(one) for one in found]} | _about(path, kept, machine)
    if save is not None:
        write_atomic(save, to_json(result, indent=2) + "\n")
    if as_json:
        print(to_json(result))
    else:
        _show(path, kept, found, machine)
    return 0 if equal else DIFFERS


def _update(path: Path, methods: tuple[str, ...], reason: str | None, machine: Machine, as_json: bool) -> int:
    """Make figures anew: of the methods named, else of all that are in the file or that it is for."""
    from tractbench.io.files import check_writable
    from tractbench.plugins import distribution_hash
    from tractbench.registry import load_method, method_names
    from tractbench.regress.baseline import SHIPPED, Baseline, read_baseline, write_baseline
    from tractbench.regress.cells import standard_cells
    from tractbench.regress.update import update

    if path == SHIPPED and "site-packages" in path.parts:
        raise ConfigError("the figures that ship are made in a checkout; give a file of your own with --baseline FILE")
    check_writable(path)
    before = read_baseline(path) if path.exists() else None
    if before is not None and before.revisions and reason is None:
        raise ConfigError(f"{path} has figures; say why they are made anew with --reason TEXT")
    wanted = methods
    if not methods:  # tractbench's own, or those of others
        wanted = tuple(name for name in method_names() if _own(distribution_hash(load_method(name)), path == SHIPPED))
    kept = before or Baseline()
    of_method = {name: str(cell.settings.get("method")) for name, cell in kept.cells.items()}
    new = [name for name in wanted if name not in of_method.values()]  # the others have the cells that they have
    standard = [cell for name in new for cell in standard_cells(load_method(name))]
    of_method |= {name: str(settings["method"]) for name, settings in standard}
    if not of_method:
        raise ConfigError("there is no method of yours; give --plugin FILE, or name one with --method NAME")
    with progress(as_json).task("making figures", len(of_method), "cell") as task:
        made = update(before, standard, lambda name: not methods or of_method[name] in wanted,
                      reason or "the first figures", machine, lambda name: task.advance(1, name))  # fmt: skip
    write_baseline(path, made)
    if as_json:
        print(to_json({"cells": list(made.cells)} | _about(path, made, machine)))
    else:
        print(f"{len(made.cells)} cells, version {made.revisions[-1].version}: {path}")
    return 0


def _own(source: str | None, built_in: bool) -> bool:
    """Whether a method, by its plugin's hash, is one of those that a baseline is for."""
    return (source is None) == built_in


def _about(path: Path, kept: Baseline, machine: Machine) -> dict[str, object]:
    return {
        "baseline": str(path),
        "revision": kept.revisions[-1].model_dump() if kept.revisions else None,
        "machine": machine.model_dump(),
        "differs_in": kept.machine.differences(machine) if kept.machine else None,
    }


def _show(path: Path, kept: Baseline, found: list[Comparison], machine: Machine) -> None:
    """Print a line for each cell, however wide the terminal is, and what holds here."""
    width = max(len(one.cell) for one in found)
    print(f"{'cell':{width}}  {'holds':9}  {'found':7}  {'of tolerance':>12}")
    for one in found:
        ratio = "-" if one.ratio is None else f"{one.ratio:.2g}"
        note = one.said or ("the same bits" if one.bits else f"most in {one.worst}")
        print(f"{one.cell:{width}}  {one.holds:9}  {'equal' if one.equal else 'DIFFERS':7}  {ratio:>12}  {note}")
    if kept.machine is not None and (others := kept.machine.differences(machine)):
        print(f"made on another kind of machine ({', '.join(others)}), so that the tolerance holds: {kept.tolerance}")
    wrong = sum(not one.equal for one in found)
    revision = f", version {kept.revisions[-1].version}" if kept.revisions else ""
    print(f"{len(found) - wrong} of {len(found)} cells are equal to {path}{revision}")
