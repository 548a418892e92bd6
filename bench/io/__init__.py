"""Files written whole, hashes, canonical JSON, the cache and downloads."""
