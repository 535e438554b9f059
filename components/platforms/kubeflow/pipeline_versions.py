"""Uploads a compiled pipeline to Kubeflow Pipelines once, so that its runs have a name there."""

from pathlib import Path
from typing import Any

from imgpipe.components.common.errors import InvalidArgumentError, UnavailableError
from imgpipe.components.platforms.kubeflow.client import FORBIDDEN, KubeflowClient, equals


def find_or_upload(
    client: KubeflowClient, name: str, version: str, file: Path, *, description: str
) -> tuple[str, str] | None:
    """Returns the ids of a pipeline and its version, which are created if they do not exist.

    Args:
        client: The installation.
        name: Name of the pipeline. KFP may store pipelines and versions as objects of Kubernetes: both names
            are lower-case letters, digits, - and .
        version: Name of the version; the same text is always the same version.
        file: The compiled pipeline.
        description: What the pipeline does; the browser shows it on the pipeline's page.

    Returns:
        None if the account may not list or create pipelines.
    """

    def find_pipeline(api: Any) -> str:
        options = {"namespace": client.resolved_namespace(api)}
        page = api.pipelines.pipeline_service_list_pipelines(
            filter=equals("name", name), **{key: value for key, value in options.items() if value}
        )
        return next((str(found.pipeline_id) for found in page.pipelines or []), "")

    def create_pipeline(api: Any) -> str:
        pipeline = api.api_models.V2beta1Pipeline(
            name=name,
            display_name=name,
            description=description,
            namespace=client.resolved_namespace(api),
        )
        return str(api.pipelines.pipeline_service_create_pipeline(pipeline=pipeline).pipeline_id or "")

    try:
        pipeline_id = client.find_or_create(f"create the pipeline {name}", find_pipeline, create_pipeline)

        def find_version(api: Any) -> str:
            page = api.pipelines.pipeline_service_list_pipeline_versions(
                pipeline_id=pipeline_id, filter=equals("name", version)
            )
            return next((str(found.pipeline_version_id) for found in page.pipeline_versions or []), "")

        def upload(api: Any) -> str:
            uploaded = api.pipeline_uploads.upload_pipeline_version(
                # The browser shows the descriptions of both, one below the other, and does not scroll.
                str(file),
                name=version,
                pipelineid=pipeline_id,
            )
            return str(uploaded.pipeline_version_id or "")

        return pipeline_id, client.find_or_create(f"upload the pipeline {name}", find_version, upload)
    except (InvalidArgumentError, UnavailableError) as error:
        # KFP answers a lack of permission for uploads with 400 "Failed to create a pipeline"
        # (pipeline_upload_server.go, 2.17).
        if isinstance(error, UnavailableError) and error.status != FORBIDDEN:
            raise
        return None
