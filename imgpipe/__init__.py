"""Labelled images in, the most accurate SavedModel out."""
