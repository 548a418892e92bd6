"""Seeds derived from names: no global random generator is read or set anywhere."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*names: str | int) -> int:
    """Return a 63-bit seed, the sha256 of the names: ``derive_seed("sample", seed, index)``.

    Equal names give equal seeds on every machine; the types count (1 and "1" differ).
    """
    digest = hashlib.sha256(repr(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: str | int) -> torch.Generator:
    """Return a CPU generator seeded by :func:`derive_seed` of the names."""
    return torch.Generator().manual_seed(derive_seed(*names))
