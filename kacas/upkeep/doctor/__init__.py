"""What is wrong with a store's surroundings: its file system, its modes, what was left behind, this host's cache."""
