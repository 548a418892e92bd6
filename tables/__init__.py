"""The paper's tables, ablations and claims as data; ``tractbench.paper`` reads them."""
