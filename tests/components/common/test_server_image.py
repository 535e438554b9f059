from contextlib import nullcontext

import pytest

from imgpipe.components.common.errors import CheckFailedError
from imgpipe.components.common.server_image import check_server_image


@pytest.mark.parametrize(
    ("image", "is_refused"),
    [
        ("tensorflow/serving:2.5.4", True),
        ("tensorflow/serving:2.6.2-gpu", False),
        ("tensorflow/serving:2.16.1@sha256:00", False),
        ("tensorflow/serving:latest", False),
        ("europe-docker.pkg.dev/flowers/images/tensorflow-serving:v2.4", True),
        # A company's own image may have versions of its own.
        ("registry.example:5000/tf-serving-gpu:2.3.0", False),
        ("registry.example:5000/tensorflow-serving:0.9", False),
        ("us-docker.pkg.dev/vertex-ai/prediction/tf2-cpu.2-3:latest", True),
        ("us-docker.pkg.dev/vertex-ai-restricted/prediction/tf-opt-cpu.1-15:latest", True),
        ("us-docker.pkg.dev/vertex-ai/prediction/tf2-gpu.2-15:latest", False),
        ("my-serving:1.4", False),
        ("imgpipe-serve-tools:0.1.0", False),
    ],
)
def test_an_image_of_an_older_tensorflow_is_refused(tmp_path, image, is_refused):
    message = r"cannot load the model, which requires TensorFlow 2\.6 or later"
    with pytest.raises(CheckFailedError, match=message) if is_refused else nullcontext():
        check_server_image(image, tmp_path, name="serving_image", remedy="take another")


def test_the_model_says_which_version_it_requires(tmp_path):
    (tmp_path / "deployment_config.yaml").write_text('minimumRuntimeVersion: "2.20"\n')
    with pytest.raises(CheckFailedError, match=r"requires TensorFlow 2\.20 or later"):
        check_server_image("tensorflow/serving:2.6.2", tmp_path, name="serving_image", remedy="take another")
