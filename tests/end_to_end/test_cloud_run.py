"""The whole pipeline on data in Cloud Storage."""

from tests.end_to_end.runs import SMALL, run_imgpipe
from tests.servers.faulty_bucket import BUCKET


def test_images_in_a_bucket_and_then_their_shards_become_models(coloured_folder, cloud, tmp_path):
    for path in coloured_folder.rglob("*.png"):
        cloud.put(f"photos/{path.parent.name}/{path.name}", path.read_bytes())
    small = [*SMALL, "--train-batch-size", "4"]
    data = f"gs://{BUCKET}/shards"
    first = run_imgpipe(tmp_path / "first", "--images", f"gs://{BUCKET}/photos", "--output-dir", data, *small)
    assert first.status == 0, first.shown
    assert {name.split("-")[0] for name in cloud.contents("shards/")} >= {"train", "validation"}
    patterns = ["--training-data-path", f"{data}/train-*", "--validation-data-path", f"{data}/validation-*"]
    second = run_imgpipe(tmp_path / "second", *patterns, *small)
    assert second.status == 0, second.shown
    results = {event["step"]: event for event in second.events if event["event"] == "step_result"}
    assert set(results) >= {"validate", "train", "evaluate", "export"}
