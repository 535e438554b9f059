"""KFP's client and the Vertex AI SDK accept the compiled files."""

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform

from tests.pipelines.compiled import COMPILED
from tests.servers.kubeflow import start_kubeflow_server
from tests.servers.vertex import start_vertex_server

# For each file, the step that is checked and the number of its processors.
PODS = {
    "image_classification": ("train", "4"),
    "image_classification_tune": ("tune", "4"),
    "image_classification_retrain": ("train", "4"),
    "batch_predict": ("batch-predict", "4"),
}


def test_every_compiled_file_is_tested():
    all_arguments = {f"{name}_all_arguments" for name in set(PODS) - {"batch_predict"}}
    assert {file.stem for file in (COMPILED / "vertex").iterdir()} == set(PODS)
    assert {file.stem for file in (COMPILED / "kubeflow").iterdir()} == {*PODS, *all_arguments}


@pytest.mark.filterwarnings("ignore:This client only works:FutureWarning")
@pytest.mark.parametrize("file", sorted((COMPILED / "kubeflow").iterdir()), ids=lambda file: file.stem)
def test_kfps_client_accepts_the_kubeflow_file(file, tmp_path):
    import kfp

    name = file.stem.removesuffix("_all_arguments")
    step, processors = PODS[name]
    if file.stem == name != "batch_predict":
        # The first step of a form passes on the processors.
        processors = "prepare.pod_cpu"
    with start_kubeflow_server(tmp_path) as server:
        client = kfp.Client(host=server.address)
        result = client.create_run_from_pipeline_package(str(file), arguments={"images": "gs://b/i"})
        assert server.pods(result.run_id)[step]["cpu"] == processors


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PODS)
def test_the_vertex_ai_sdk_sends_the_vertex_file(name, tmp_path, monkeypatch):
    # The SDK would look up the bucket in Cloud Storage.
    monkeypatch.setattr(
        "google.cloud.aiplatform.utils.gcs_utils.create_gcs_bucket_for_pipeline_artifacts_if_it_does_not_exist",
        lambda **_: "gs://b/p",
    )
    # Keeps the SDK's global settings out of other tests.
    monkeypatch.setattr(aiplatform.initializer, "global_config", aiplatform.initializer._Config())
    with start_vertex_server(tmp_path) as server:
        aiplatform.initializer.global_config.init(
            project="flowers-project",
            location="us-central1",
            credentials=AnonymousCredentials(),
            api_endpoint=server.address,
            api_transport="rest",
        )
        values = {"images": "gs://b/i"}
        if name != "batch_predict":
            values |= {"max_steps": 5, "train_machine_type": "g2-standard-8"}
        job = aiplatform.PipelineJob(
            display_name="flowers",
            template_path=str(COMPILED / "vertex" / f"{name}.yaml"),
            pipeline_root="gs://b/p",
            parameter_values=values,
            job_id="flowers",
        )
        job.submit(service_account="runner@p.iam.gserviceaccount.com")
        [sent] = server.created("pipelineJobs")
    assert sent.service_account == "runner@p.iam.gserviceaccount.com"
    assert {key: sent.runtime_config.parameter_values[key] for key in values} == values
    assert PODS[name][0] in sent.pipeline_spec["root"]["dag"]["tasks"]
