"""The whole pipeline on data in a bucket of each kind of store."""

import pytest

from tests.end_to_end.runs import SMALL, run_imgpipe


# Half a minute each: that each store can be read and written is tested without a training run.
@pytest.mark.parametrize("bucket", ["cloud", pytest.param("s3", marks=pytest.mark.proof)], indirect=True)
def test_images_in_a_bucket_and_then_their_shards_become_models(coloured_folder, bucket, tmp_path):
    for path in coloured_folder.rglob("*.png"):
        bucket.put(f"photos/{path.parent.name}/{path.name}", path.read_bytes())
    small = [*SMALL, "--train-batch-size", "4"]
    data = f"{bucket.uri}/shards"
    first = run_imgpipe(tmp_path / "first", "--images", f"{bucket.uri}/photos", "--output-dir", data, *small)
    assert first.status == 0, first.shown
    assert {name.split("-")[0] for name in bucket.contents("shards/")} >= {"train", "validation"}
    patterns = ["--training-data-path", f"{data}/train-*", "--validation-data-path", f"{data}/validation-*"]
    second = run_imgpipe(tmp_path / "second", *patterns, *small)
    assert second.status == 0, second.shown
    results = {event["step"]: event for event in second.events if event["event"] == "step_result"}
    assert set(results) >= {"validate", "train", "evaluate", "export"}
