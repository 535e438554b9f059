import pytest


@pytest.fixture(scope="session")
def model(linear_model, tmp_path_factory):
    """The folder of a model with the labels dark and bright."""
    return linear_model(tmp_path_factory.mktemp("model") / "model")
