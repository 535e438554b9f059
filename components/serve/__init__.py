"""``imgpipe serve``: TensorFlow Serving's REST predict API for trying a model out."""
