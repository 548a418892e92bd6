"""Power by spatial frequency, a feature extractor for tractbench."""
