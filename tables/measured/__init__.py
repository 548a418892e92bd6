"""The suite's own measurements, one sealed record a line in each ``*.jsonl``: written by ``tractbench store ship``."""
