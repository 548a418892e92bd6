"""What a check finds, in the words of whoever wrote the component."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, NoReturn, TypeVar

import pydantic
import torch

from tractbench.errors import TractbenchError

Status = Literal["passed", "failed", "does not apply"]
OTHERS = (Path(__file__).parent.parent, Path(torch.__file__).parent, Path(pydantic.__file__).parent)
"""Where the checks and what they call are: a component's author looks for a mistake elsewhere first."""

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Finding:
    """What one check says of one component.

    Attributes:
        kind: what the component is, such as ``method``.
        component: its name.
        check: what was looked at.
        status: how it ended.
        detail: what was found, or why the check does not apply.
        remedy: what to do where it failed.
    """

    kind: str
    component: str
    check: str
    status: Status
    detail: str
    remedy: str = ""


class Wrong(Exception):
    """A component breaks its contract: what was found, and what to do."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.detail, self.remedy = detail, remedy


class Inapplicable(Exception):
    """A check asks for something that the component does not have, or that is not on this machine."""


def require(condition: bool, detail: str, remedy: str) -> None:
    """Raise :class:`Wrong` unless a condition holds."""
    if not condition:
        raise Wrong(detail, remedy)


def inapplicable(reason: str) -> NoReturn:
    """Raise :class:`Inapplicable`."""
    raise Inapplicable(reason)


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """A named check: a function of a component that returns what it found, or raises Wrong or Inapplicable."""

    name: str
    run: Callable[[Subject], str]


def examine(kind: str, component: str, subject: Subject, checks: Sequence[Check[Subject]]) -> Iterator[Finding]:
    """Yield what each check finds; an exception of the component's own is a finding too."""
    for check in checks:
        yield tried(kind, component, check.name, lambda check=check: check.run(subject))  # type: ignore[misc]


def tried(kind: str, component: str, name: str, run: Callable[[], str]) -> Finding:
    """Return what one check finds."""
    before = torch.get_rng_state()
    try:
        detail = run()
    except Inapplicable as reason:
        return Finding(kind, component, name, "does not apply", str(reason))
    except Wrong as wrong:
        return Finding(kind, component, name, "failed", wrong.detail, wrong.remedy)
    except TractbenchError as error:
        return Finding(kind, component, name, "failed", str(error), "do what the message says, or mend the component")
    except Exception as error:  # the component may fail in any way
        return Finding(kind, component, name, "failed", _said(error), f"mend {_place(error)}")
    finally:
        torch.set_rng_state(before)
    return Finding(kind, component, name, "passed", detail)


def _said(error: Exception) -> str:
    return " ".join(f"it raises {type(error).__name__}: {error}".split())


def _place(error: Exception) -> str:
    """Return the file and line of the component's own where an exception comes from, if there is one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    theirs = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(root) for root in OTHERS)]
    shown = (theirs or frames)[-1]
    return f"{Path(shown.filename).name}:{shown.lineno}, {shown.name}"


def untouched(what: str, call: Callable[[], Subject]) -> Subject:
    """Return what a call returns if it neither reads nor sets torch's global random generator.

    Raises:
        Wrong: it does.
    """
    before = torch.get_rng_state()
    found = call()
    require(
        torch.equal(before, torch.get_rng_state()),
        f"{what} draws from torch's global random generator, or seeds it",
        "use what it is given: uniforms, noise or a torch.Generator; runs could not be compared or resumed otherwise",
    )
    return found
