"""RUNS -> INSIGHT: what a run came to, alone, beside others, and in the notebook."""
