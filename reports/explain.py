"""Everything behind a table, a cell, a claim or a run, by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tractbench.claims.table import Table
from tractbench.errors import ConfigError, nearest_name
from tractbench.reports.findings import find
from tractbench.reports.lineage import CellLineage, ClaimLineage, TableLineage, cell_lineages, claim_lineage
from tractbench.results.plans import Registered
from tractbench.results.record import Record


def explain(
    name: str,
    records: Sequence[Record],
    tables: Mapping[str, Table],
    root: Path,
    plans: Sequence[Registered] = (),
    shipped: Sequence[Record] = (),
) -> TableLineage | CellLineage | ClaimLineage | Record:
    """Return everything behind a table, a cell, a claim or a run.

    Args:
        name: ``table``, ``table/row/nfe``, ``table/claim``, or a run's folder or at least eight digits of its identity.
        records: one for each identity, oldest first.
        tables: all of them, since claims are corrected for all of a tier.
        root: the store's folder, to see which files are there.
        plans: registered ones of the store, oldest first.
        shipped: runs that come with the package, which are told apart; the user's come first.

    Raises:
        ConfigError: nothing has that name.
    """
    everything = (*shipped, *records)
    runs = [r for r in everything if name == Path(r.folder).name or (len(name) >= 8 and r.identity.startswith(name))]
    if runs:
        return runs[-1]
    cells = {cell.id: cell for table in tables.values() for cell in table.cells.values()}
    claims = {f"{table.name}/{claim.id}": (table, claim) for table in tables.values() for claim in table.claims}
    if name not in cells and name not in claims and name not in tables:
        near = nearest_name(name, [*cells, *claims] if "/" in name else tables)
        raise ConfigError(
            f"nothing is called {name!r}{near if near.startswith('; did') else ''}; give TABLE, TABLE/ROW/NFE or "
            "TABLE/CLAIM as 'tractbench verify' prints them, or the first eight digits of a run's identity"
        )
    found = find(records, tables, plans, shipped)
    if name in tables:
        table = tables[name]
        both = [one.verdicts.values() if one else () for one in (found.yours, found.shipped)]
        judged, theirs = ([verdict for verdict in some if verdict.table == name] for some in both)
        theirs = [verdict for verdict in theirs if verdict.verdict != "not run"]
        behind = tuple(cell_lineages(table, cell, found, root) for cell in table.cells.values())
        return TableLineage(id=name, title=table.title, verdicts=tuple(judged), shipped=tuple(theirs), cells=behind)
    if name in cells:
        cell = cells[name]
        return cell_lineages(tables[cell.table], cell, found, root)
    table, claim = claims[name]
    return claim_lineage(table, claim, found, root)
