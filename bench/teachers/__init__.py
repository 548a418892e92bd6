"""Teachers: their cards, their weights, and training small ones."""
