"""``tractbench suite --until-decided``: look after look, until nothing is left that further seeds may decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tractbench.errors import ConfigError

if TYPE_CHECKING:
    from tractbench.pipeline.suite_cells import Choice
    from tractbench.reports.verdicts.verdict import Verdict
    from tractbench.results.store import Store


def next_choice(choice: Choice, tables: Path | None, store: Store) -> tuple[list[Verdict], Choice | None]:
    """Return what of the chosen tables is not decided and has looks left, and the runs of its next look.

    Args:
        choice: tables and cells.
        tables: folder of all tables, since claims are corrected for all of a tier; None for those of the package.
        store: the runs there are.

    Raises:
        ConfigError: none of the tables declares looks.
    """
    from tractbench.claims.loading import load_tables
    from tractbench.pipeline.suite_cells import chosen_cells
    from tractbench.reports.verdicts.judge import verdicts
    from tractbench.reports.verdicts.next_look import next_look

    if not any(table.looks_of(claim) for table in choice.tables for claim in (None, *table.claims)):
        names = " and ".join(table.name for table in choice.tables)
        raise ConfigError(f"--until-decided: {names} declares no looks; add a line such as looks = [5, 10, 20]")
    known = load_tables(tables)
    chosen = {table.name for table in choice.tables}
    found = [verdict for verdict in verdicts(store.records(), known) if verdict.table in chosen]
    undecided, seeds = next_look(known, found, {cell.id for _, cell in chosen_cells(choice)})
    return undecided, replace(choice, cells=seeds) if seeds else None


def make_until_decided(
    choice: Choice, tables: Path | None, store: Store, make: Callable[[Choice], int], as_json: bool
) -> int:
    """Make the runs of one look after the other; return the exit status of the last suite, 0 if there was none.

    Each look is a suite of its own, made by ``make``. It ends when all is decided or at its last look, after a suite
    that did not end well, and where a suite that did has changed nothing.
    """
    before = None
    while True:
        undecided, following = next_choice(choice, tables, store)
        if following is None or following == before:
            _say(undecided, as_json)
            return 0
        _say(undecided, as_json)
        if code := make(following):
            return code
        before = following


def _say(undecided: list[Verdict], as_json: bool) -> None:
    """Print what is not decided and at how many seeds the next look is."""
    ahead = {verdict.id: verdict.looks.next for verdict in undecided if verdict.looks}
    if as_json:
        print(json.dumps({"event": "look", "undecided": ahead}), flush=True)
    elif not ahead:
        print("no look is left: all is decided, or its last look was taken", flush=True)
    else:
        for name, seeds in ahead.items():
            print(f"not decided: {name}, next look at {seeds} seeds", flush=True)
