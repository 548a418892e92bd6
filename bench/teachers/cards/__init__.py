"""Cards of weights, shipped with the package and published by others."""
