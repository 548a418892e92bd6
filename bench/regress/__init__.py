"""Whether methods still compute what they did: tiny runs of each, compared with figures that were kept."""
