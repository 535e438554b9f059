"""Pipeline inputs that are shared by several steps, or by a step and a target."""

import pytest

from imgpipe.components.common.arguments import argument, from_values, named_field
from imgpipe.components.preflight.pipeline_inputs import PIPELINE_ARGUMENTS
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.targets.target import Target
from imgpipe.pipelines.tasks import pipeline_inputs


@pytest.mark.parametrize(
    "values",
    [
        {"deploy_target": "local", "deploy_dir": "serving/flowers", "job_dir": "runs/1"},
        {"deploy_target": "kserve", "deploy_dir": "gs://bucket/serving", "job_dir": "gs://bucket/job"},
        {
            "deploy_target": "vertex",
            "deploy_dir": "gs://bucket/serving",
            "serving_image": "europe-docker.pkg.dev/flowers/serving/tf@sha256:0",
            "project": "flowers",
            "region": "europe-west4",
            "champion": "gs://bucket/serving/champion",
        },
    ],
    ids=lambda values: values["deploy_target"],
)
def test_every_step_accepts_the_deployment_arguments(values):
    images = {"images": "gs://bucket/flowers"}
    for arguments_class in PIPELINE_ARGUMENTS:
        from_values(arguments_class, {**images, **values})


def test_a_target_cannot_redeclare_an_input_of_the_pipeline():
    own = {"job_dir": named_field("job_dir", argument("", "Something else."))}
    target = Target("own", lambda *_: None, inputs=lambda _: own)
    with pytest.raises(ValueError, match="job_dir: declared differently on own"):
        pipeline_inputs(PIPELINE_ARGUMENTS, target, Images())
