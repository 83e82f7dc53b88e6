"""Run models whose layers do not all fit in memory: some layers stay, the others are loaded as the loop needs them."""
