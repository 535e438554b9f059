"""Which image a step runs in."""

from importlib.metadata import version

# The roles differ in what they have installed: only train-cpu and serve-tools hold TensorFlow.
_ROLE_OF_STEP = {
    "convert": "data",
    "validate": "data",
    "train": "train-cpu",
    "evaluate": "serve-tools",
    "export": "serve-tools",
    "gate": "data",
    "deploy": "serve-tools",
    "batch_predict": "serve-tools",
}


def image_of(step: str) -> str:
    """Returns the image of a step, tagged with the version: KFP's cache knows code by its image's name."""
    return f"imgpipe-{_ROLE_OF_STEP[step]}:{version('image-classification-pipeline')}"
