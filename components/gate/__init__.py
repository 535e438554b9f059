"""The gate: whether a model that was trained and checked is good enough to be deployed."""
