"""``python -m tractbench``."""

from tractbench.cli import main

main()
