"""Labelled images, or TFRecord files that exist already, become a Dataset: shards and a manifest."""
