"""How runs on each data set are set up, as data: tiers, teachers and networks, one TOML file each."""
