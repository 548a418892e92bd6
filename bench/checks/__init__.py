"""One contract test over any component: what ``tractbench check`` shows, and what built-ins are held to.

:func:`check` says of a name what is wrong with what it names, in the words of whoever wrote it.
"""

from tractbench.checks.check import check, check_file, kinds_of
from tractbench.checks.finding import Finding

__all__ = ["Finding", "check", "check_file", "kinds_of"]
