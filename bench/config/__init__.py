"""What decides the numbers of a run, how it is resolved, and what it is called."""
