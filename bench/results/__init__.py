"""The store of runs: records, folders and where every byte came from."""
