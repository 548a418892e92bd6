"""The data sets, one module each; a new module here is found by its name."""
