"""Bounds on what reading a pickle can cost, checked on its opcodes before anything is made of them.

The memo of the C unpickler is an array as long as the largest index that a file names, and the hash of a tuple walks
through all that it holds, every time: a few bytes can ask for gigabytes of the one or for hours of the other.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import IO

TUPLE = 1000
"""Most things that a tuple may hold, those in tuples within it counted as often as they occur."""

_PUT = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GET = ("GET", "BINGET", "LONG_BINGET")
_HASHED = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")
_MARK = 0
"""On the stack of weights: what an opcode pops back to."""


def check_bounds(file: IO[bytes]) -> None:
    """Read one pickle to its end, and refuse it if reading could cost more than its size allows.

    Args:
        file: at the start of the pickle; it is left behind its end.

    Raises:
        pickle.UnpicklingError: it has memo numbers far beyond its length, or tuples that hold too much.
        ValueError, EOFError: it is no pickle.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name, popped, weight = opcode.name, opcode.stack_before, 1
        try:
            if name in _PUT:
                index = len(memo) if name == "MEMOIZE" else int(str(argument))
                if index > steps + 1:  # writers count what they remember
                    raise pickle.UnpicklingError(f"a memo with the number {index} after {steps} opcodes")
                memo[index] = stack[-1]
                continue
            if name in _GET:
                weight = memo[int(str(argument))]
            elif name == "DUP":
                stack.append(stack[-1])
                continue
            elif name == "POP" and stack[-1] == _MARK:
                popped = [pickletools.markobject]
            held = _pop(stack, popped)
        except (IndexError, KeyError) as error:
            raise pickle.UnpicklingError(f"{name} without what it needs") from error
        if name in _HASHED:
            weight += sum(held)
            if weight > TUPLE:
                raise pickle.UnpicklingError(f"a tuple of more than {TUPLE} parts")
        if name == "MARK":
            stack.append(_MARK)
        elif name != "POP":
            stack += [weight] * len(opcode.stack_after)


def _pop(stack: list[int], before: list[pickletools.StackObject]) -> list[int]:
    """Remove what an opcode takes from a stack of weights, and return it."""
    plain = len(before)
    held: list[int] = []
    if pickletools.markobject in before:
        plain = before.index(pickletools.markobject)
        while (top := stack.pop()) != _MARK:
            held.append(top)
    for _ in range(plain):
        held.append(stack.pop())
    return held
