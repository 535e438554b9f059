"""Converts labeled images, or describes existing TFRecord files: a Dataset of shards and a manifest."""
