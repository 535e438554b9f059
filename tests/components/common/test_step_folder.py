import json

import pytest

from imgpipe.components.common.step_folder import default_job_dir
from imgpipe.components.storage import parse_location

RUN = "pipelines/image-classification/0b1c"


def test_a_step_that_is_tried_again_gets_the_same_folder(bucket):
    # The driver of the second try has drawn another folder for the outputs.
    found = [default_job_dir("train", f"{bucket.uri}/{RUN}/train/{salt}/model") for salt in ("a1", "b2")]
    assert found == [f"{bucket.uri}/{RUN}/train/job_dir"] * 2
    (parse_location(found[0]) / "checkpoint").write(b"step 7")
    assert (parse_location(found[1]) / "checkpoint").read() == b"step 7"


def test_a_local_artifact_has_no_default(tmp_path):
    assert default_job_dir("train", str(tmp_path / "model")) == ""


@pytest.mark.parametrize("root", ["minio://mlpipeline/v2", "s3://not-mine", "gs://not-mine"])
def test_a_pipeline_root_that_cannot_hold_checkpoints_is_reported_with_the_remedy(root, cloud, s3, capsys):
    assert default_job_dir("train", f"{root}/{RUN}/train/a1/model") == ""
    [event] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert event["severity"] == "WARNING"
    assert (
        "If the pod is evicted, the step begins again. Set job_dir to a gs:// or s3:// folder"
        in event["message"]
    )
