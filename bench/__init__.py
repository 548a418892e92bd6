"""tractbench: a reproducibility benchmark for few-step diffusion distillation (TRACT, arXiv 2303.04248)."""
