"""Cards of the teachers that others publish."""
