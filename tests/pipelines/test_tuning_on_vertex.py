"""The whole tuning pipeline on Vertex AI: trials are trained, the best model is deployed and tested."""

import base64
import re
import subprocess
from contextlib import contextmanager

import pytest
import requests
from click.testing import CliRunner
from google.cloud import aiplatform_v1 as vertex

from imgpipe.components.common.model_folder import local_model
from imgpipe.components.platforms.vertex.client import VertexLocation
from imgpipe.pipelines.cli import imgpipe
from imgpipe.pipelines.sample_data import write_digits
from tests.command_line import IMGPIPE
from tests.servers.vertex import STATES
from tests.servers.vertex_models import VertexModels
from tests.servers.vertex_tuning import start_tuning_server

CONFIG = """
trainingInput:
  scaleTier: CUSTOM
  masterType: n1-standard-4
  hyperparameters:
    goal: MAXIMIZE
    hyperparameterMetricTag: top_1_accuracy
    maxTrials: 4
    maxParallelTrials: 2
    enableTrialEarlyStopping: true
    params:
    - parameterName: initial_learning_rate
      type: DOUBLE
      minValue: 0.001
      maxValue: 0.1
      scaleType: UNIT_LOG_SCALE
"""


@contextmanager
def serve_model(artifact_uri):
    """Serves the model at a ``gs://`` location and yields the predict URL."""
    with local_model(artifact_uri) as folder:
        process = subprocess.Popen(
            [IMGPIPE, "serve", "--model", str(folder), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            urls = (re.search(r"http://127\.0\.0\.1:\d+/\S+:predict", line) for line in process.stdout)
            yield next(url[0] for url in urls if url)
        finally:
            process.terminate()
            process.communicate()


def predict(artifact_uri, instances):
    """Returns the predictions of a model that is served for this call."""
    with serve_model(artifact_uri) as address:
        return requests.post(address, json={"instances": instances}, timeout=60).json()["predictions"]


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_the_best_trial_on_digits_is_deployed_and_its_endpoint_predicts(cloud, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    digits = write_digits(tmp_path / "bucket" / "digits")
    parent = "projects/flowers-project/locations/us-central1"
    args = [
        *("--train_csv=gs://bucket/digits/digits.csv", "--model_type=resnet-18", "--image_size=32"),
        *("--weights=none", "--max_steps=120", "--train_batch_size=64", "--warmup_steps=20"),
        *("--train_steps_per_eval=30", "--job-dir=gs://bucket/tuned", "--min_accuracy=0.8"),
        *("--deploy_target=vertex", "--deploy_dir=gs://photos/serving/digits", "--project=flowers-project"),
        *("--region=us-central1", "--serving_image=europe-docker.pkg.dev/flowers/images/serving:2.21"),
    ]
    with start_tuning_server(tmp_path) as server:
        server.models = VertexModels(parent=parent, predict=predict)
        target = ["--target", "vertex", "--project", "flowers-project", "--region", "us-central1"]
        target += ["--endpoint", server.address]
        line = ["submit", "digits_1", *target, "--no-check", "--config", "config.yaml", "--as", "pipeline"]
        result = CliRunner().invoke(imgpipe, [*line, "--pipeline-root", "gs://bucket/pipelines", "--", *args])
        assert result.exit_code == 0, result.output
        [pipeline] = server.created("pipelineJobs")
        server.wait_for(pipeline.name, 1500)
        lines = "\n".join(text for _, text in server.logs[pipeline.name.split("/")[-1]])
        assert pipeline.state == vertex.PipelineState.PIPELINE_STATE_SUCCEEDED, lines[-5000:]
        [tuning] = server.created("hyperparameterTuningJobs")
        assert tuning.state == STATES.JOB_STATE_SUCCEEDED
        best = max(trial.final_measurement.metrics[0].value for trial in tuning.trials)
        assert len(tuning.trials) == 4
        accuracy = float(re.search(r"evaluate: top-1 accuracy ([0-9.]+)", lines)[1])
        print(f"tuning on the Vertex target: best trial {best:.4f}, deployed {accuracy:.4f}")
        assert accuracy == round(best, 4)
        [endpoint] = server.models.endpoints.values()
        [deployed] = endpoint["deployedModels"]
        assert endpoint["trafficSplit"] == {deployed["id"]: 100}

        rows = [row.split(",") for row in digits.read_text().splitlines()][:20]
        instances = [
            {
                "key": str(number),
                "image_bytes": {"b64": base64.b64encode((digits.parent / path).read_bytes()).decode()},
            }
            for number, (path, _) in enumerate(rows)
        ]
        client = VertexLocation("flowers-project", "us-central1", server.address).client(
            "PredictionServiceClient", endpoint["dedicatedEndpointDns"]
        )
        response = client.predict(endpoint=endpoint["name"], instances=instances)
        predictions = [dict(prediction) for prediction in response.predictions]
        assert [prediction["key"] for prediction in predictions] == [str(number) for number in range(20)]
        labels = sorted({label for _, label in rows})
        correct = sum(
            labels[int(prediction["classes"])] == label
            for prediction, (_, label) in zip(predictions, rows, strict=True)
        )
        print(f"the endpoint classifies {correct} of {len(rows)} digits correctly")
        assert correct >= 18
