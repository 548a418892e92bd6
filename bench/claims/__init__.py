"""The paper's tables as data: what is claimed, published and run."""
