"""Mutated files, and how many of them: a few in every run of the tests, many with ``--hypothesis-profile=long``."""

import signal
from contextlib import contextmanager

import hypothesis
from hypothesis import strategies as st

HANGING = 120
"""Seconds after which an example counts as one that hangs, on a busy machine."""


def examples(few):
    """Settings of a test: ``few`` examples, always the same ones, or those of the long profile."""
    long = hypothesis.settings.get_current_profile_name() == "long"
    return hypothesis.settings(
        max_examples=hypothesis.settings().max_examples if long else few, deadline=None, derandomize=not long,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip


HEAD = 256
"""Bytes from a file's start in which half of all edits are."""

edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "insert", "delete", "repeat", "cut", "zero"]),
        st.booleans(),
        st.integers(0, 1 << 24),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=4,
)


def mutated(content, changes):
    """Return bytes after a few edits, half of them near the start."""
    data = bytearray(content)
    for kind, near, place, value in changes:
        place %= max(1, min(len(data), HEAD) if near else len(data))
        span = slice(place, place + 1 + value % 16)
        if kind == "flip" and data:
            data[place] ^= 1 << value % 8
        elif kind == "set" and data:
            data[place] = value
        elif kind == "insert":
            data[place:place] = bytes([value])
        elif kind == "delete":
            del data[span]
        elif kind == "repeat":
            data[place:place] = data[span]
        elif kind == "zero":
            data[span] = bytes(len(data[span]))
        elif kind == "cut":
            del data[place:]
    return bytes(data)


@contextmanager
def no_hang():
    """Fail what takes longer than anything should."""

    def hang(*_):
        raise AssertionError(f"not done after {HANGING} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANGING)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
