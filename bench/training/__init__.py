"""The one training loop, its moving averages and its checkpoints."""
