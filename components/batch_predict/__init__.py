"""Batch prediction: one line of JSON for each image."""
