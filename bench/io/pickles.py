"""Reading pickles that others wrote without importing or executing anything that they name.

A pickle may name any function of any module and have it called. Here a fixed table says which names are known and what
stands for each; every other name is an error. What the table hands out is inert: a file can call it where that is
meant, and cannot change it. What reading may cost is bounded by the file's size (:mod:`tractbench.io.pickle_bounds`).
"""

from __future__ import annotations

import pickle
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from tractbench.io.pickle_bounds import check_bounds

Known = Mapping[tuple[str, str], object]
"""What a file gets for each module and name that it may use."""


class Inert:
    """What a file may pass around but not change."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError(f"a state for {type(self).__name__}")


class Call(Inert):
    """A function of ours under a name of the file's."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __call__(self, *arguments: object) -> object:
        """Call the function."""
        return self.function(*arguments)


class NumpyType:
    """A NumPy dtype as a file describes it.

    Attributes:
        code: its type code, such as ``f8``.
        order: ``<`` or ``>``.
    """

    def __init__(self, code: object, *flags: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a NumPy dtype without byte order")
        self.order = "<" if state[1] in "|=" else state[1]


def encode(text: object, encoding: object) -> bytes:
    """Stand for ``_codecs.encode``, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {shown(encoding)}")
    return text.encode("latin1")


def shown(value: object) -> str:
    """Return a value of a file for a message, cut short: what holds itself many times has no end."""
    return reprlib.repr(value)


class TableUnpickler(pickle.Unpickler):
    """An unpickler that knows a table of names and nothing else.

    Args:
        file: what is read, which can be read again.
        known: the table.
        encoding: how strings of Python 2 are read.
    """

    def __init__(self, file: Any, known: Known, encoding: str = "ASCII") -> None:
        super().__init__(file, encoding=encoding)
        self._file, self._known = file, known
        self._encoded: dict[str, bytes] = {}

    def load(self) -> Any:
        """Return the object, after a first reading that bounds what the second one may cost."""
        start = self._file.tell()
        check_bounds(self._file)
        self._file.seek(start)
        return super().load()

    def find_class(self, module: str, name: str) -> object:
        """Return what stands for a name."""
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        found = self._known[module, name]
        return Call(self._encode) if isinstance(found, Call) and found.function is encode else found

    def _encode(self, text: object, encoding: object) -> bytes:
        """Encode a text once, however often a file asks for it."""
        if not isinstance(text, str) or text not in self._encoded or encoding != "latin1":
            content = encode(text, encoding)
            self._encoded[str(text)] = content
            return content
        return self._encoded[text]

    def persistent_load(self, key: object) -> object:
        """Refuse references to things outside of the file."""
        raise pickle.UnpicklingError("a persistent reference")
