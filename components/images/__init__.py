"""Image files: checking, preparing and decoding them, in Python and in the TensorFlow graph."""
