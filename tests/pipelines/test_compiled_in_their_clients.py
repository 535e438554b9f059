"""Each compiled file loads in the client for which it is meant."""

from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform

from tests.servers.kubeflow import start_kubeflow_server
from tests.servers.vertex import start_vertex_server

COMPILED = Path(__file__).parents[2] / "pipelines" / "compiled"


@pytest.mark.filterwarnings("ignore:This client only works:FutureWarning")
def test_kfp_client_takes_the_kubeflow_file(tmp_path):
    import kfp

    with start_kubeflow_server(tmp_path) as server:
        client = kfp.Client(host=server.address)
        file = str(COMPILED / "kubeflow" / "image_classification.yaml")
        result = client.create_run_from_pipeline_package(file, arguments={"images": "gs://b/i"})
        assert server.pods(result.run_id)["train"]["cpu"] == "4"


@pytest.mark.filterwarnings("ignore")
def test_the_vertex_ai_sdk_takes_the_vertex_file_and_sends_it(tmp_path, monkeypatch):
    # It would ask Cloud Storage for a bucket; the pipeline's root says which one is meant.
    monkeypatch.setattr(
        "google.cloud.aiplatform.utils.gcs_utils.create_gcs_bucket_for_pipeline_artifacts_if_it_does_not_exist",
        lambda **_: "gs://b/p",
    )
    # What is set here is this test's alone.
    monkeypatch.setattr(aiplatform.initializer, "global_config", aiplatform.initializer._Config())
    with start_vertex_server(tmp_path) as server:
        aiplatform.initializer.global_config.init(
            project="flowers-project",
            location="us-central1",
            credentials=AnonymousCredentials(),
            api_endpoint=server.address,
            api_transport="rest",
        )
        job = aiplatform.PipelineJob(
            display_name="flowers",
            template_path=str(COMPILED / "vertex" / "image_classification.yaml"),
            pipeline_root="gs://b/p",
            parameter_values={"images": "gs://b/i", "max_steps": 5, "train_machine_type": "g2-standard-8"},
            job_id="flowers",
        )
        job.submit(service_account="runner@p.iam.gserviceaccount.com")
        [sent] = server.created("pipelineJobs")
    assert sent.service_account == "runner@p.iam.gserviceaccount.com"
    assert sent.runtime_config.parameter_values["train_machine_type"] == "g2-standard-8"
    assert "train" in sent.pipeline_spec["root"]["dag"]["tasks"]
