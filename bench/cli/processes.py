"""The processes of a run on the command line: rank 0 prints, and whatever ends one of them is told once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tractbench.cli.ending import tell

if TYPE_CHECKING:
    from tractbench.training.parallel import Group


@contextmanager
def processes(device: str) -> Iterator[Group]:
    """Join the processes of a launcher; alone, be a group of one.

    The process that fails first tells why and the others end silently, all with its exit status. They end at once, as a
    process that is told to close connections to others that are gone may wait for ever.

    Args:
        device: what the user named.

    Raises:
        ConfigError: the device is none, or the processes cannot share it.
    """
    from tractbench.cli.options import chosen_device
    from tractbench.training.parallel import join

    group = join(chosen_device(device))
    try:
        yield group
        group.leave()
    except BaseException as error:
        if group.size == 1:
            raise
        from tractbench.pipeline.failures import first_ending

        ending = first_ending(error, group, group.device)
        code = tell(error) if ending.rank == group.rank else getattr(error, "exit_code", ending.exit_code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
