"""Feature spaces, one a file."""
