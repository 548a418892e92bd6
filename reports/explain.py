"""Everything behind a table, a cell, a claim or a run, by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tractbench.claims.table import Table
from tractbench.errors import ConfigError, nearest_name
from tractbench.reports.evidence import gather
from tractbench.reports.lineage import CellLineage, ClaimLineage, TableLineage, cell_lineage, claim_lineage
from tractbench.reports.verdicts.judge import judge
from tractbench.reports.verdicts.registered import with_plans
from tractbench.results.plans import Registered
from tractbench.results.record import Record


def explain(
    name: str,
    records: Sequence[Record],
    tables: Mapping[str, Table],
    root: Path,
    plans: Sequence[Registered] = (),
) -> TableLineage | CellLineage | ClaimLineage | Record:
    """Return everything behind a table, a cell, a claim or a run.

    Args:
        name: ``table``, ``table/row/nfe``, ``table/claim``, or a run's folder or at least eight digits of its identity.
        records: one for each identity, oldest first.
        tables: all of them, since claims are corrected for all of a tier.
        root: the store's folder, to see which files are there.
        plans: registered ones of the store, oldest first.

    Raises:
        ConfigError: nothing has that name.
    """
    runs = [r for r in records if name == Path(r.folder).name or (len(name) >= 8 and r.identity.startswith(name))]
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
    evidence = gather(records, tables)
    ruled = with_plans(judge(tables, evidence), tables, evidence, records, plans)
    verdicts = {verdict.id: verdict for verdict in ruled}
    if name in tables:
        table = tables[name]
        behind = (cell_lineage(table, c, evidence[c.id], verdicts.get(c.id), root) for c in table.cells.values())
        judged = (verdict for verdict in verdicts.values() if verdict.table == name)
        return TableLineage(id=name, title=table.title, verdicts=tuple(judged), cells=tuple(behind))
    if name in cells:
        cell = cells[name]
        return cell_lineage(tables[cell.table], cell, evidence[name], verdicts.get(name), root)
    table, claim = claims[name]
    return claim_lineage(table, claim, evidence, verdicts, root)
