"""``tractbench verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tractbench.cli import completion
from tractbench.cli.options import Json, Measured, Runs, Tables, store_or_note, warn_damaged, with_plugins
from tractbench.cli.output import to_json
from tractbench.errors import ConfigError, nearest_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel

    from tractbench.reports.findings import Found
    from tractbench.reports.verdicts.verdict import Verdict

CONTRADICTED = 1
UNDECIDED = 3


@with_plugins
def verify(
    table: Annotated[
        str | None,
        typer.Option(help="Only this table: digits, cifar10, imagenet64, ...", autocompletion=completion.table),
    ] = None,
    tier: Annotated[str | None, typer.Option(help="Only this evidence tier: small, paper.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 3 if anything is not run or not decided.")
    ] = False,
    tables: Tables = None,
    measured: Measured = True,
    runs: Runs = Path("runs"),
    as_json: Json = False,
) -> int:
    """Judge the paper's figures and claims by the runs there are: reproduced, contradicted, inconclusive or not run.

    A figure is reproduced when the 90% interval of the difference lies
    within its margin, contradicted when the 95% interval lies outside. A
    claim is tested by paired t on the logarithm of scores over at least
    five shared training seeds, with Holm's correction over all claims of
    its tier. Errors are held to 5% for the looks that a table declares,
    numbers of training seeds, however often one looks; without looks, for
    a number of seeds fixed beforehand.
    What the suite itself measured comes with tractbench, is judged apart,
    and is compared with your runs of the same cells; the exit status is of
    your runs alone.
    Exit status: 0 if nothing is contradicted, else 1.

    Examples:
      tractbench verify --tier small
      tractbench verify --table cifar10 --strict --json
    """
    from tractbench.claims.loading import load_tables
    from tractbench.reports.findings import find
    from tractbench.results.measured import shipped_records
    from tractbench.results.plans import registered_plans

    known = load_tables(tables)
    for option, wanted, names in (("table", table, set(known)), ("tier", tier, {t.tier for t in known.values()})):
        if wanted is not None and wanted not in names:
            raise ConfigError(f"unknown {option} {wanted!r}{nearest_name(wanted, names)}")
    if table and tier not in (None, known[table].tier):
        raise ConfigError(f"no table of tier {tier!r} is called {table!r}: it is of tier '{known[table].tier}'")
    shipped = shipped_records() if measured else []
    store = store_or_note(runs, bool(shipped))
    records = store.records()
    plans, damaged = registered_plans(store.root)
    store.damaged += damaged
    warn_damaged(store)
    both = find(records, known, plans, shipped)
    found = [v for v in both.yours.verdicts.values() if table in (None, v.table) and tier in (None, v.tier)]
    if as_json:
        print(to_json(_values(found, both)))
    else:
        _print(found, both)
    if any(verdict.verdict == "contradicted" for verdict in found):
        return CONTRADICTED
    return UNDECIDED if strict and any(verdict.missing for verdict in found) else 0


def _values(found: list[Verdict], both: Found) -> dict[str, object]:
    """Return verdicts as JSON values: of the user's runs, of the shipped ones, and on these by the user's."""
    theirs = [both.shipped.verdicts[one.id] for one in found if both.shipped]
    tables = {verdict.table for verdict in found}
    repeated = [repeat for repeat in both.repeats.values() if repeat.id.partition("/")[0] in tables]
    lists: dict[str, Sequence[BaseModel]] = {"verdicts": found, "shipped": theirs, "on_your_machine": repeated}
    return {name: [one.model_dump(mode="json") for one in some] for name, some in lists.items()}


def _print(found: list[Verdict], both: Found) -> None:
    """Print a line for each verdict and what stands behind it, tier by tier."""
    for tier, protocol in dict.fromkeys((verdict.tier, verdict.protocol) for verdict in found):
        print(f"tier {tier}, protocol {protocol}")
        for verdict in found:
            if (verdict.tier, verdict.protocol) != (tier, protocol):
                continue
            for source, one in both.sources(verdict.id):
                ruled = one.verdicts[verdict.id]
                print(f"  {ruled.verdict:14} {ruled.id}{' (shipped runs)' * (source == 'shipped')}")
                if details := ", ".join(_details(ruled)):
                    print(f"  {'':14}   {details}")
    tables = {verdict.table for verdict in found}
    repeated = [repeat for repeat in both.repeats.values() if repeat.id.partition("/")[0] in tables]
    if repeated:
        print("shipped results")
    for repeat in repeated:
        print(f"  {repeat.answer:14} {repeat.id}\n  {'':14}   {repeat}")


def _details(verdict: Verdict) -> list[str]:
    """Say what a verdict rests on: the score of a figure or the ratio of scores of a claim, and its interval."""
    from tractbench.reports.sheet import with_interval

    details = []
    if verdict.estimate is not None:
        kind = verdict.metric if verdict.kind == "cell" else f"ratio of {verdict.metric}"
        details.append(f"{kind} {with_interval(verdict.estimate, verdict.interval)}")
    if verdict.published is not None:
        details.append(f"published {verdict.published:.3g}")
    if verdict.n:
        details.append(f"{verdict.n} training seed{'s' * (verdict.n > 1)}")
    p = verdict.p_against if verdict.verdict == "contradicted" else verdict.p
    if p is not None:
        details.append(f"p {p:.2g}")
    if verdict.compared:
        details.append(verdict.compared[0].beside(verdict.verdict == "contradicted"))
    if verdict.mean is not None:
        details.append(f"a minimum; mean {verdict.mean:.4g}")
    if verdict.looks:
        details.append(str(verdict.looks))
    elif verdict.further_seeds:
        details.append(f"{verdict.further_seeds} more would decide if planned beforehand")
    details.append(verdict.wide)
    if verdict.plan:
        details.append(str(verdict.plan))
    details += [note for note in verdict.notes if note != verdict.verdict]
    return list(filter(None, details))
