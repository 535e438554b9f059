"""The features that images are compared by."""

import numpy as np
import pytest

from imgpipe.components.audit.features import with_middle_layer
from imgpipe.components.train.forward_pass import Mode, run_network
from imgpipe.components.train.models import build_classifier


@pytest.mark.parametrize(
    ("model_type", "middle_width"),
    [
        ("mobilenet-v2", 576),
        *(
            pytest.param(name, width, marks=pytest.mark.proof)
            for name, width in (
                ("efficientnet-b0", 672),
                ("efficientnet-v2-b0", 672),
                ("resnet-50", 1024),
                ("mobilenet-v3-small", 288),
                ("mobilenet-v3-large", 672),
                ("convnext-tiny", 384),
            )
        ),
    ],
)
def test_a_layer_in_the_middle_and_the_output_are_computed_in_one_pass(model_type, middle_width):
    classifier = build_classifier(model_type, num_classes=2, image_size=64, weights="none", seed=0)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    found = run_network(with_middle_layer(classifier), images, Mode(False)).numpy()
    assert found.shape[1] == middle_width + classifier.backbone.output_shape[-1]
    assert (found[:, :middle_width].std(axis=0) > 0).any()
    expected = classifier.features(images, training=False).numpy()
    assert np.allclose(found[:, middle_width:], expected, atol=1e-5)
