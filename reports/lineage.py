"""What stands behind a figure: runs, settings, hashes, versions, hardware, seeds, and the commands that repeat it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tractbench.claims.claims import Claim
from tractbench.claims.published import Published
from tractbench.claims.rows import Cell
from tractbench.claims.table import Table
from tractbench.config.identity import SCORING_VERSION, TRAINING_VERSION
from tractbench.io.canonical import canonical
from tractbench.reports.evidence import Evidence
from tractbench.reports.findings import Found, Source, says
from tractbench.reports.repeat import repeat_command
from tractbench.reports.verdicts.repeats import Repeat
from tractbench.reports.verdicts.verdict import Verdict
from tractbench.results.record import Record


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class RunOrigin(_Value):
    """One run.

    Attributes:
        identity: the run's hash.
        student: the student's hash.
        weights: sha256 of the weights that were sampled.
        seed: training seed.
        scores: of each sampling seed.
        quoted: the number that the protocol quotes of them.
        command: that makes it.
        created: when it was recorded.
        folder: inside the store.
        training_seconds: wall time of training.
        config: all of its settings.
        files: what lies in its folder now.
    """

    identity: str
    student: str
    weights: str | None
    seed: int
    scores: dict[int, float]
    quoted: float
    command: str
    created: str
    folder: str
    training_seconds: float
    config: dict[str, Any]
    files: tuple[str, ...] = ()


class Origin(_Value):
    """Runs that were made on one machine with one set of versions and files.

    Attributes:
        environment: versions, hardware and the state of the code.
        hashes: sha256 of the teacher, data, reference and plugins' sources.
        basis: what the scores were made against.
    """

    environment: dict[str, Any]
    hashes: dict[str, str | None]
    basis: dict[str, Any]
    runs: tuple[RunOrigin, ...]


class CellLineage(_Value):
    """Everything behind a cell.

    Attributes:
        id: ``table/row/nfe``.
        whose: whose runs.
        settings: its resolved settings but for the seed.
        training_version: version of the code's training that runs must have.
        scoring_version: version of the code's sampling and scoring that runs must have.
        published: the published figure, with its source in words.
        verdict: what the runs say of it, None without a published figure.
        mean: of the quoted scores over training seeds.
        training_std: their standard deviation.
        sampling_std: root mean square of the standard deviations over sampling seeds.
        n: training seeds.
        origins: the runs that count.
        left_out: runs that do not, and why.
        remarks: what is unusual about those that count.
        repeat: a command for each training seed that the table asks for.
        on_your_machine: of the user's runs, whether they reproduce the shipped ones; None without both.
        shipped: of the user's runs, what stands behind the shipped ones; None where it is not asked for.
    """

    id: str
    kind: str = "cell"
    whose: Source = "yours"
    tier: str
    protocol: str
    metric: str
    settings: dict[str, Any]
    training_version: int = TRAINING_VERSION
    scoring_version: int = SCORING_VERSION
    published: Published | None
    source: str
    verdict: Verdict | None
    mean: float | None
    training_std: float | None
    sampling_std: float | None
    n: int
    origins: tuple[Origin, ...]
    left_out: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    repeat: tuple[str, ...]
    on_your_machine: Repeat | None = None
    shipped: CellLineage | None = None


class ClaimLineage(_Value):
    """Everything behind a claim: its verdict, that of the shipped runs, and the cells that it compares."""

    id: str
    kind: str = "claim"
    text: str
    source: str
    verdict: Verdict
    shipped: Verdict | None = None
    cells: tuple[CellLineage, ...]


class TableLineage(_Value):
    """Everything behind a table: its verdicts, figures and claims in their order, of both sources, and its cells."""

    id: str
    kind: str = "table"
    title: str
    verdicts: tuple[Verdict, ...]
    shipped: tuple[Verdict, ...] = ()
    cells: tuple[CellLineage, ...]


def claim_lineage(table: Table, claim: Claim, found: Found, root: Path) -> ClaimLineage:
    """Return everything behind a claim."""
    name = f"{table.name}/{claim.id}"
    compared = {c.id: c for pairs in table.alternatives(claim) for pair in pairs for c in pair}
    return ClaimLineage(
        id=name,
        text=claim.text,
        source=table.sources[claim.source],
        verdict=found.yours.verdicts[name],
        shipped=found.shipped.verdicts[name] if found.shipped and says(found.shipped, name) else None,
        cells=tuple(cell_lineages(table, c, found, root) for c in compared.values()),
    )


def cell_lineages(table: Table, cell: Cell, found: Found, root: Path) -> CellLineage:
    """Return everything behind a cell, the shipped runs inside of what is behind the user's."""
    own = cell_lineage(table, cell, found, root=root)
    if found.shipped is None or not says(found.shipped, cell.id):
        return own
    return own.model_copy(update={"shipped": cell_lineage(table, cell, found, "shipped")})


def cell_lineage(
    table: Table, cell: Cell, found: Found, source: Source = "yours", root: Path | None = None
) -> CellLineage:
    """Return everything behind a cell by one source of runs.

    Args:
        table: its table.
        cell: the cell.
        found: what runs say of it.
        source: whose runs; shipped ones there must be.
        root: the store's folder, to see which files are there; None does not look.
    """
    findings = found.shipped if source == "shipped" and found.shipped else found.yours
    evidence = findings.evidence[cell.id]
    spread = evidence.spread
    config = cell.config
    seeds = table.training_seeds if config.schedule else (0,)
    return CellLineage(
        id=cell.id,
        whose=source,
        tier=cell.tier,
        protocol=cell.protocol,
        metric=cell.metric,
        settings=config.model_dump(mode="json", exclude={"seed"}),
        published=cell.published,
        source=table.sources[cell.published.source] if cell.published else "",
        verdict=findings.verdicts.get(cell.id),
        mean=evidence.mean,
        training_std=evidence.training_std,
        sampling_std=spread.sampling if spread else None,
        n=len(evidence.quoted),
        origins=_origins(cell, evidence, root),
        left_out=evidence.left_out if evidence.quoted else (evidence.missing, *evidence.left_out),
        remarks=evidence.remarks,
        repeat=tuple(repeat_command(cell, seed if config.schedule else None) for seed in seeds),
        on_your_machine=found.repeats.get(cell.id) if source == "yours" else None,
    )


def _origins(cell: Cell, evidence: Evidence, root: Path | None) -> tuple[Origin, ...]:
    groups: dict[str, list[Record]] = {}
    for record in evidence.records:
        groups.setdefault(canonical([record.environment, _shared_hashes(record), record.basis]), []).append(record)
    return tuple(
        Origin(
            environment=group[0].environment,
            hashes=_shared_hashes(group[0]),
            basis=group[0].basis,
            runs=tuple(_run(record, cell, evidence, root) for record in group),
        )
        for group in groups.values()
    )


def _shared_hashes(record: Record) -> dict[str, str | None]:
    return {name: value for name, value in record.hashes.items() if name != "student"}


def _run(record: Record, cell: Cell, evidence: Evidence, root: Path | None) -> RunOrigin:
    folder = root / record.folder if root else None
    present = sorted(p.name for p in folder.iterdir() if p.name[0] != ".") if folder and folder.is_dir() else []
    return RunOrigin(
        identity=record.identity,
        student=record.student,
        weights=record.hashes.get("student"),
        seed=record.config.seed,
        scores=dict(zip(record.config.sampling_seeds, record.metrics[cell.metric].per_seed, strict=True)),
        quoted=evidence.quoted[record.config.seed],
        command=record.command,
        created=record.created,
        folder=record.folder,
        training_seconds=record.training.seconds,
        config=record.config.model_dump(mode="json"),
        files=tuple(present),
    )
