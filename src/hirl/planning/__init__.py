"""Plan a study before it runs: its cost, the fastest settings, and the step benchmark that measures both."""
