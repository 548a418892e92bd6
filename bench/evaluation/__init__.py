"""From a denoiser to scores: sampling, features, Frechet distances."""
