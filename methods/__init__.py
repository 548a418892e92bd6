"""The built-in methods, one module each; a new module here is found by its name."""
