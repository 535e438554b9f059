"""``imgpipe serve``: a local server with TensorFlow Serving's REST API, for trying out a model."""
