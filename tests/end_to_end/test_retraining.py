"""A run that starts from the serving model, is compared with it and replaces it."""

import json
from pathlib import Path

from tests.end_to_end.runs import SMALL, run_imgpipe


def test_a_run_starts_from_the_serving_model_and_deploys_the_next_version(coloured_folder, tmp_path):
    serving = tmp_path / "serving" / "colours"
    arguments = ["--images", str(coloured_folder), "--train-batch-size", "4", *SMALL]
    deployed = ["--deploy-target", "local", "--deploy-dir", str(serving), "--tolerance", "1"]
    first = run_imgpipe(tmp_path / "first", *arguments, *deployed, "--retrain")
    assert first.status == 0, first.shown
    assert "no_serving_model" in [event["event"] for event in first.events]
    second = run_imgpipe(tmp_path / "second", *arguments, *deployed, "--retrain")
    assert second.status == 0, second.shown
    assert sorted(path.name for path in serving.iterdir()) == ["1", "2"]
    (loaded,) = [event for event in second.events if event["event"] == "pretrained_weights"]
    assert loaded["last_layer_loaded"] is True
    gated = next(event for event in second.events if event.get("step") == "gate" and "result" in event)
    assert "passed" in gated["result"]
    provenance = json.loads((serving / "2" / "provenance.json").read_text())
    assert provenance["arguments"]["pretrained_checkpoint_path"] == str(serving / "1")
    assert Path(second.summary["model"]).is_dir()
    deployment = second.summary["deployment"]
    assert (deployment["version"], deployment["location"]) == ("2", str(serving / "2"))
    page = Path(second.summary["report"]).read_text(encoding="utf-8")
    assert f'<span class="badge fine">deployed</span> {deployment["summary"]}' in page
    assert "run --retrain" in page
