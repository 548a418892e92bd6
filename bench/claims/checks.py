"""What a table has to be, beyond the kinds of its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tractbench.claims.axes import Axis
from tractbench.errors import nearest_name
from tractbench.evaluation.protocols import load_protocol

if TYPE_CHECKING:
    from tractbench.claims.table import Table

TABLE_WIDE = frozenset({"dataset", "tier", "protocol", "nfe", "seed"})
"""Settings that have a key of their own in a table's head or a cell, so that no verdict mixes them."""

SAMPLING = frozenset({"samples", "sampling_seeds"})
"""Settings that all cells of a table share: scores are compared at equal numbers of samples."""


def check(table: Table) -> None:
    """Hold a table to itself: its names, settings, figures and references.

    Raises:
        ValueError: what is wrong; the message names it.
    """
    ids = [row.id for row in table.rows] + [claim.id for claim in table.claims]
    _unique("row and claim", ids)
    _unique("label", [row.label for row in table.rows])
    _unique("training seed", list(map(str, table.training_seeds)))
    _check_settings(table)
    _unique("axis", [axis.id for axis in table.axes])
    for row in table.rows:
        _unique(f"row '{row.id}': cell", [str(data.nfe) for data in row.cells])
    _check_figures(table)
    _check_references(table)


def _check_settings(table: Table) -> None:
    """Hold a table to one data set, tier and protocol, and its cells to one number of samples."""
    if min(table.training_seeds) < 0:
        raise ValueError(f"training_seeds {min(table.training_seeds)}: give none below 0")
    places = [("settings", table.settings, TABLE_WIDE)]
    for row in table.rows:
        places.append((f"row '{row.id}'", row.settings, TABLE_WIDE | SAMPLING))
        places += [(f"cell '{row.id}/{data.nfe}'", data.settings, TABLE_WIDE | SAMPLING) for data in row.cells]
    for place, settings, barred in places:
        for key in settings:
            if key in barred:
                where = "the file's [settings]" if key in SAMPLING else "the head of the file"
                raise ValueError(f"{place}: {key} is one for all cells; it belongs in {where}")
    for cell in table.cells.values():
        known = load_protocol(cell.protocol).metrics
        if table.metric not in known:
            near = nearest_name(table.metric, known)
            raise ValueError(f"protocol '{cell.protocol}' has no metric {table.metric!r}{near}")


def _check_axis(table: Table, axis: Axis) -> None:
    """Hold the places of an axis to the settings of their cells, where it names one."""
    for point in axis.points:
        config = table.cells[point.cell].config
        value = (config.model_dump() | config.options).get(axis.x)
        if axis.x == "schedule":
            value = ",".join(map(str, config.schedule))
        if isinstance(value, str):
            right = str(point.x).casefold() == value.casefold()
        else:
            right = value is None or point.x == value  # None: no setting, or one that has no value
        if not right:
            raise ValueError(f"axis '{axis.id}': x {point.x} is not the {axis.x} of '{point.cell}', {value}")


def _check_figures(table: Table) -> None:
    if table.tier == "paper" and not table.metric.startswith("fid"):
        raise ValueError(f"metric '{table.metric}': tier 'paper' is about FID; give fid")
    for cell in table.cells.values():
        if cell.published and cell.margin is None:
            raise ValueError(f"cell '{cell.ref}': a published figure needs a margin, its own or the table's")
        if cell.published and not cell.error:
            raise ValueError(f"cell '{cell.ref}': a figure without an error needs the table's unstated_error")
    if table.unstated_error and not table.unstated_error_reason:
        raise ValueError(f"unstated_error {table.unstated_error}: it needs an unstated_error_reason")


def _check_references(table: Table) -> None:
    axes = {axis.id: [point.cell for point in axis.points] for axis in table.axes}
    for axis, refs in axes.items():
        _unique(f"axis '{axis}': cell", refs)
        _check_cells(table, f"axis '{axis}'", refs)
    for axis_data in table.axes:
        _check_axis(table, axis_data)
    placed = {ref for refs in axes.values() for ref in refs}
    for cell in table.cells.values():
        if cell.row.ablation and cell.ref not in placed:
            raise ValueError(f"row '{cell.row.id}': an ablation's cell '{cell.ref}' has to stand on an axis")
    for row in table.rows:
        for figure in (data.published for data in row.cells if data.published):
            for one in (figure, *figure.others):
                _check_source(table, f"row '{row.id}'", one.source)
    for claim in table.claims:
        place = f"claim '{claim.id}'"
        _check_source(table, place, claim.source)
        _check_cells(table, place, claim.left + claim.right)
        for left, right in zip(claim.left, claim.right, strict=False):
            if left == right:
                raise ValueError(f"{place}: it compares '{left}' with itself")
        if claim.axis is None:
            continue
        if claim.axis not in axes:
            raise ValueError(f"{place}: unknown axis {claim.axis!r}{nearest_name(claim.axis, axes)}")
        if any(axis.id == claim.axis and len(axis.lines) > 1 for axis in table.axes):
            raise ValueError(f"{place}: axis '{claim.axis}' has several lines; a claim needs an axis of one")
        points = axes[claim.axis]
        if not set(claim.left) <= set(points[1:-1] if claim.test == "interior" else points):
            raise ValueError(f"{place}: left {claim.left[0]!r} is no {claim.test} point of axis '{claim.axis}'")
        if claim.test == "interior" and len(points) < 3:
            raise ValueError(f"{place}: axis '{claim.axis}' has no interior point; give it three points or more")


def _check_cells(table: Table, place: str, refs: list[str] | tuple[str, ...]) -> None:
    for ref in refs:
        if ref not in table.cells:
            raise ValueError(f"{place}: unknown cell {ref!r}{nearest_name(ref, table.cells)}")


def _check_source(table: Table, place: str, source: str) -> None:
    if source not in table.sources:
        raise ValueError(f"{place}: unknown source {source!r}{nearest_name(source, table.sources)}")


def _unique(kind: str, ids: list[str]) -> None:
    for one in ids:
        if ids.count(one) > 1:
            raise ValueError(f"{kind} '{one}' is there twice; rename one")
