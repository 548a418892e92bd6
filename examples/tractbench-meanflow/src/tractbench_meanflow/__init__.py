"""MeanFlow (Geng et al. 2025, arXiv 2505.13447) as a method of tractbench."""
