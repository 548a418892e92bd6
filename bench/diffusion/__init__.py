"""The mathematics of diffusion: processes, denoisers and solvers, as pure functions."""
