"""Finds the serving model, from which a retraining starts."""
