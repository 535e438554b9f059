"""The model that serves: where a training that goes on from it starts."""
