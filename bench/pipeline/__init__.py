"""What the verbs do: each file one story from a configuration to a result."""
