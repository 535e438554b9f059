"""Computes a version of the input data, so that caching follows changes of the data."""
