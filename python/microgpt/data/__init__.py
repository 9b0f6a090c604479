"""IDS -> BATCHES: datasets made, opened and cut into rows."""
