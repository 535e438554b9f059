"""The gate: decides whether a model is good enough to be deployed."""
