"""Readers of other people's checkpoint formats; nothing in a file is executed."""
