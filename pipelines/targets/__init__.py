"""Where a pipeline runs: how each target places tasks and starts runs."""
