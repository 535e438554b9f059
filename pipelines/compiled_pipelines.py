"""The compiled pipelines: the package's own, or compiled with other image names."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imgpipe.components.common.errors import UnavailableError
from imgpipe.components.preflight.pipeline_inputs import RETRAIN, TRAIN, TUNE
from imgpipe.pipelines.images import Images
from imgpipe.pipelines.kubeflow_options import NO_ADDITIONS, KubeflowOptions

__all__ = ["COMPILED", "RETRAIN", "TRAIN", "TUNE", "pipeline_file"]

COMPILED = Path(__file__).parent / "compiled"


def all_arguments_file(pipeline: str, target: str) -> str:
    """Returns the name of the compiled file that has all arguments of a pipeline as inputs."""
    return f"{pipeline}_all_arguments" if target == "kubeflow" else pipeline


@contextmanager
def pipeline_file(
    target: str, images: Images, pipeline: str = TRAIN, options: KubeflowOptions = NO_ADDITIONS
) -> Iterator[Path]:
    """Yields a compiled file for a target.

    Args:
        target: ``local``, ``kubeflow`` or ``vertex``.
        images: Without a registry or a lock, the file is the package's own.
        pipeline: The file's name.
        options: What is added on ``kubeflow``.

    Raises:
        UnavailableError: if the file has to be compiled, and a package for that is not installed.
    """
    if images == Images() and options == NO_ADDITIONS:
        yield COMPILED / target / f"{pipeline}.yaml"
        return
    # Imported here: KFP takes a second to load.
    from kfp import compiler

    from imgpipe.pipelines.builders import builders_of
    from imgpipe.pipelines.targets.kubeflow import kubeflow_target
    from imgpipe.pipelines.targets.local import LOCAL
    from imgpipe.pipelines.targets.vertex import VERTEX

    targets = {known.name: known for known in (LOCAL, kubeflow_target(options), VERTEX)}
    with tempfile.TemporaryDirectory(prefix="imgpipe-") as folder:
        file = Path(folder) / f"{pipeline}.yaml"
        try:
            made = builders_of(targets[target])[pipeline](targets[target], images)
            compiler.Compiler().compile(made, package_path=str(file))
        except ImportError as error:
            raise UnavailableError(
                f"compiling for {target} needs a package that is not installed: {error}",
                remedy="pip install 'image-classification-pipeline[katib]'",
            ) from None
        yield file
