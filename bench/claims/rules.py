"""What decides over a figure or a claim, as text that is equal where the rule is."""

from __future__ import annotations

from tractbench.claims.claims import Claim
from tractbench.claims.rows import Cell
from tractbench.io.canonical import canonical


def figure_rule(cell: Cell, looks: tuple[int, ...] = ()) -> str:
    """Return what decides over a cell's published figure: value, error, margin and looks; "" without one."""
    published = cell.published
    if published is None:
        return ""
    return canonical([published.value, cell.error, cell.margin, published.budget, *([looks] if looks else [])])


def claim_rule(claim: Claim, points: tuple[str, ...], looks: tuple[int, ...] = ()) -> str:
    """Return what decides over a claim.

    Args:
        claim: the claim.
        points: the cells of its axis, in order; none without an axis.
        looks: numbers of training seeds at which it is decided, its own or its table's.
    """
    return canonical([claim.test, claim.left, claim.right, points, claim.margin, *([looks] if looks else [])])
