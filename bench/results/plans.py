"""Registered plans: which runs were to be made, and how they were to be judged, written down before they were."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tractbench.errors import DamagedFileError
from tractbench.io.canonical import canonical
from tractbench.io.files import write_atomic
from tractbench.io.seals import BrokenSealError, sealed, unsealed
from tractbench.results.migrate import BOM

PLANS = "plans"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PlannedCell(_Value):
    """A cell of a table.

    Attributes:
        runs: identities of its runs by training seed; one for a method that trains nothing.
        rule: what decides over its published figure, as canonical JSON; "" without one.
    """

    runs: dict[int, str]
    rule: str


class Plan(_Value):
    """What is registered for one table.

    Attributes:
        table: its name.
        metric: the score that decides.
        seeds: training seeds in the order in which they are made.
        looks: numbers of training seeds at which verdicts are read; the last one is all of them.
        cells: by ``row/nfe``.
        claims: what decides over each claim, as canonical JSON, by its id.
    """

    version: Literal[1] = 1
    table: str
    tier: str
    protocol: str
    metric: str
    seeds: tuple[int, ...]
    looks: tuple[int, ...]
    cells: dict[str, PlannedCell]
    claims: dict[str, str]

    @property
    def sha256(self) -> str:
        """Hash of all of it."""
        return hashlib.sha256(canonical(self.model_dump(mode="json")).encode()).hexdigest()


class Registered(_Value):
    """A plan with its hash and the time at which it was registered (ISO 8601, UTC)."""

    sha256: str
    registered: str
    plan: Plan


def register(root: Path, plan: Plan) -> Registered:
    """Write a plan into a store; one that is registered already keeps its time.

    Raises:
        DamagedFileError: a file of its name is there and is another.
        StoreError: it cannot be written.
    """
    path = root / PLANS / f"{plan.sha256}.json"
    if path.exists():
        return _read(path)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    registered = Registered(sha256=plan.sha256, registered=now, plan=plan)
    write_atomic(path, registered_text(registered))
    return registered


def registered_text(registered: Registered) -> str:
    """Return the text of a registered plan's file."""
    return json.dumps(sealed(registered.model_dump(mode="json")), indent=2) + "\n"


def registered_plans(root: Path) -> tuple[list[Registered], list[str]]:
    """Return the plans of a store, oldest first, and a line for each file that is none."""
    plans, damaged = [], []
    for path in sorted((root / PLANS).glob("*.json")):
        try:
            plans.append(_read(path))
        except DamagedFileError as error:
            damaged.append(str(error))
    return sorted(plans, key=lambda plan: (plan.registered, plan.sha256)), damaged


def _read(path: Path) -> Registered:
    try:
        written = json.loads(path.read_bytes().removeprefix(BOM))
        if not isinstance(written, dict):
            raise ValueError("no object")
        found = Registered.model_validate(unsealed(written))
    except BrokenSealError as error:
        raise DamagedFileError(f"{path} was changed after it was registered; restore or remove it") from error
    except (OSError, ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        raise DamagedFileError(f"{path} is no registered plan; remove it") from error
    if found.plan.sha256 != found.sha256:
        raise DamagedFileError(f"{path} was changed after it was registered; restore or remove it")
    return found
