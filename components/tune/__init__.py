"""Hyperparameter tuning: many trainings, the best one's model."""
