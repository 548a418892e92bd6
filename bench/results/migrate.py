"""Reading records of every version there has been."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from pydantic import ValidationError

from tractbench.errors import DamagedFileError, StoreError
from tractbench.io.seals import BrokenSealError, unsealed
from tractbench.results.record import VERSION, Record

BOM = b"\xef\xbb\xbf"
"""What some editors put before UTF-8; JSON has no place for it."""


class NewerRecordError(StoreError):
    """A record that a newer tractbench wrote."""


def parse_record(text: bytes, where: object) -> Record:
    """Read a record of any version.

    Args:
        text: its JSON.
        where: what to call it in an error.

    Raises:
        DamagedFileError: it is no record, or not as it was written.
        NewerRecordError: its version is newer than any known here.
    """
    try:
        raw = json.loads(text.removeprefix(BOM))
        if not isinstance(raw, dict):
            raise ValueError("no object")
        if raw.get("version") == VERSION:
            return Record.model_validate(unsealed(raw))
        return Record.model_validate(migrate(raw))
    except ValidationError as error:
        raise _damaged(where, error) from error
    except NewerRecordError as error:
        raise NewerRecordError(f"{where} {error}") from error
    except BrokenSealError as error:
        raise DamagedFileError(f"{where} is damaged ({error})") from error
    except (ValueError, KeyError, RecursionError) as error:
        raise DamagedFileError(f"{where} is damaged (not a record)") from error


def migrate(raw: Mapping[str, object]) -> dict[str, object]:
    """Return a record's JSON object as the current version writes it.

    Raises:
        NewerRecordError: its version is newer.
        KeyError, ValueError: it is no record.
    """
    record = dict(raw)
    version = record["version"]
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"version {version!r}")
    if version > VERSION:
        raise NewerRecordError(f"(version {version}) was written by a newer tractbench; upgrade")
    record = unsealed(record)
    for number in range(version, VERSION):
        record = STEPS[number](record)
    return record


def _from_1(record: dict[str, object]) -> dict[str, object]:
    """One version of results became one of training and one of scoring; all failures so far were divergences."""
    results = record.pop("results_version")
    failure = "diverged" if record["status"] == "failed" else None
    return record | {"version": 2, "training_version": results, "scoring_version": results, "failure": failure}


STEPS: Mapping[int, Callable[[dict[str, object]], dict[str, object]]] = {1: _from_1}
"""From each version to the next."""


def _damaged(where: object, error: ValidationError) -> DamagedFileError:
    found = error.errors(include_url=False)[0]
    place = ".".join(map(str, found["loc"]))
    return DamagedFileError(f"{where} is damaged ({place + ': ' if place else ''}{found['msg']})")
