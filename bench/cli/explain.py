"""``tractbench explain``."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli.options import Json, Measured, Runs, Tables, store_or_note, warn_damaged, with_plugins
from tractbench.plugins import used_files

if TYPE_CHECKING:
    from tractbench.reports.lineage import CellLineage, ClaimLineage, TableLineage
    from tractbench.results.record import Record


@with_plugins
def explain(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CELL",
            help="TABLE/ROW/NFE, TABLE/CLAIM, TABLE, or a run's folder or the first eight digits of its identity.",
        ),
    ],
    commands: Annotated[
        bool, typer.Option("--commands", help="Print the commands that make it, one a line, and nothing else.")
    ] = False,
    tables: Tables = None,
    measured: Measured = True,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> None:
    """Show everything behind a figure: runs, settings, hashes, versions, hardware, seeds, and how to repeat it.

    Examples:
      tractbench explain digits/tract/1
      tractbench explain digits/tract-beats-btd-1step
      tractbench explain cifar10/tract-256m/2 --json

    Of a table, every command that makes it, to run one after the other:
      tractbench explain digits --commands
    """
    from tractbench.claims.loading import load_tables
    from tractbench.reports.explain import explain as explained
    from tractbench.reports.lineage import CellLineage, ClaimLineage, TableLineage
    from tractbench.results.measured import shipped_records
    from tractbench.results.plans import registered_plans

    known = load_tables(tables)
    shipped = shipped_records() if measured else []
    store = store_or_note(runs, bool(shipped))
    records = store.records()
    plans, damaged = registered_plans(store.root)
    store.damaged += damaged
    warn_damaged(store)
    found = explained(name, records, known, store.root, plans, shipped)
    if commands:
        print("\n".join(_commands(found)))
    elif as_json:
        print(found.model_dump_json())
    elif isinstance(found, CellLineage):
        _print_cell(found)
    elif isinstance(found, ClaimLineage):
        verdict = found.verdict
        print(f"{found.id}: {verdict.verdict}\n  {found.text}\n  source: {found.source}")
        for pair in verdict.compared:
            ratio = "no shared seeds" if pair.ratio is None else f"ratio {pair.ratio:.4g}, n {pair.n}"
            beside = pair.beside(verdict.verdict == "contradicted")
            print(f"  {pair.left} over {pair.right}: {', '.join(filter(None, (ratio, beside)))}")
        for note in filter(None, (str(verdict.looks or ""), *verdict.notes, str(verdict.plan or ""))):
            print(f"  {note}")
        if found.shipped:
            print(f"  by the shipped runs: {found.shipped.verdict}")
        _print_cells(found.cells)
    elif isinstance(found, TableLineage):
        print(f"{found.id}: {found.title}")
        print(f"  made by        {_suite(found.id, tables, runs)}")
        for verdict in found.verdicts:
            print(f"  {verdict.verdict:14} {verdict.id}{f' ({verdict.plan})' if verdict.plan else ''}")
        for verdict in found.shipped:
            print(f"  {verdict.verdict:14} {verdict.id} (shipped runs)")
        _print_cells(cell.model_copy(update={"repeat": ()}) for cell in found.cells)
    else:
        print(found.model_dump_json(indent=2))


def _suite(table: str, tables: Path | None, runs: Path) -> str:
    """Return the command that makes all runs of a table which these results lack."""
    given = ["--tables", str(tables)] if tables else []
    given += ["--runs", str(runs)] if str(runs) != "runs" else []
    given += [word for file in used_files() for word in ("--plugin", str(file))]
    return shlex.join(["tractbench", "suite", "--table", table, *given])


def _commands(found: TableLineage | CellLineage | ClaimLineage | Record) -> list[str]:
    """Return the commands that make what was found, each once."""
    from tractbench.reports.lineage import CellLineage
    from tractbench.results.record import Record

    if isinstance(found, Record):
        return [found.command]
    cells = (found,) if isinstance(found, CellLineage) else found.cells
    return list(dict.fromkeys(command for cell in cells for command in cell.repeat))


def _print_cells(cells: Iterable[CellLineage]) -> None:
    for cell in cells:
        print()
        _print_cell(cell)


def _print_cell(cell: CellLineage) -> None:
    """Print a cell's lineage, what all runs share first."""
    import json

    shipped = cell.whose == "shipped"
    print(f"{cell.id}{', shipped runs' * shipped}: {cell.metric}, tier {cell.tier}, protocol {cell.protocol}")
    print(f"  code        training version {cell.training_version}, scoring version {cell.scoring_version}")
    if cell.published:
        error = f" ± {cell.published.error:g}" if cell.published.error else ""
        print(f"  published   {cell.published.value:g}{error} ({cell.source})")
        ruling = f"verdict: {cell.verdict.verdict}" if cell.verdict else ""
        said = (str(cell.verdict.looks or ""), cell.verdict.wide, str(cell.verdict.plan or "")) if cell.verdict else ()
        for note in filter(None, (cell.published.note, ruling, *said)):
            print(f"              {note}")
    if cell.mean is not None:
        training = "" if cell.training_std is None else f" ± {cell.training_std:.4g} over training seeds"
        sampling = "" if cell.sampling_std is None else f", ± {cell.sampling_std:.4g} over sampling seeds"
        print(f"  {cell.whose:11} {cell.mean:.6g}{training}{sampling}, n {cell.n}")
    if cell.on_your_machine:
        print(f"  again       {cell.on_your_machine}")
    for remark in cell.remarks:
        print(f"              {remark}")
    for reason in cell.left_out:
        print(f"  {'left out' if cell.n else 'runs':11} {reason}")
    for origin in cell.origins:
        for run in origin.runs:
            scores = " ".join(f"{seed}:{score:.6g}" for seed, score in run.scores.items())
            print(f"  run         {run.identity[:8]} training seed {run.seed}, by sampling seed {scores}")
            there = "comes with tractbench, without its files" if shipped else "the folder is gone"
            print(f"              {run.folder}: {' '.join(run.files) or there}")
            print(f"              recorded {run.created}, trained {run.training_seconds:.0f} s, weights {run.weights}")
            print(f"              {run.command}")
        for name, value in origin.hashes.items():
            if value:
                print(f"  hash        {name} {value}")
        for name, value in origin.environment.items():
            print(f"  made with   {name} {value if isinstance(value, str) else json.dumps(value)}")
        for name, value in origin.basis.items():
            print(f"  scored by   {name} {value if isinstance(value, str) else json.dumps(value)}")
    settings = " ".join(f"{name}={json.dumps(value)}" for name, value in cell.settings.items() if value is not None)
    print(f"  settings    {settings}")
    for command in () if shipped else cell.repeat:
        print(f"  repeat      {command}")
    if cell.shipped:
        print()
        _print_cell(cell.shipped)
