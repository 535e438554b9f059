"""Hyperparameter tuning: trains many trials and keeps the best model."""
