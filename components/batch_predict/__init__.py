"""Batch prediction: images from files in, a line of JSON out for each of them."""
