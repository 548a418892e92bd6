"""The built-in methods, one module each; a new one is found by the line that it gets in ``pyproject.toml``."""
