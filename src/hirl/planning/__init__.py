"""Before a study runs: its cost, the fastest settings, and the step benchmark that both measure with."""
