"""Tables of the paper as chapters of the report."""
