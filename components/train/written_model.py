"""Writes the model folder: SavedModel, labels, provenance, deployment configuration."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.label_sets import set_thresholds
from imgpipe.components.common.provenance import (
    SERVING_FORMATS_WITH_WEBP,
    write_deployment_config,
    write_provenance,
)
from imgpipe.components.common.saved_model import write_saved_model
from imgpipe.components.common.tf_import import keras, tf
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.evaluation import Evaluation
from imgpipe.components.train.models import Classifier


def write_model(
    folder: Path,
    classifier: Classifier,
    arguments: TrainingArguments,
    manifest: Manifest,
    evaluations: Sequence[Evaluation],
    best: Evaluation,
    environment: Mapping[str, Any],
) -> None:
    """Writes the model with its current weights, those of the evaluation ``best``.

    ``environment`` has additional JSON values for the provenance, by name.
    """
    thresholds = set_thresholds(best.set_scores, best.temperature, multi_label=manifest.multi_label)
    write_saved_model(
        classifier,
        arguments.resolved_image_size(),
        manifest.labels,
        folder,
        multi_label=manifest.multi_label,
        temperature=best.temperature,
        set_thresholds=thresholds,
        webp=arguments.serving_formats == SERVING_FORMATS_WITH_WEBP,
        resize=arguments.resize,
    )
    write_deployment_config(
        folder, global_step=best.step, serving_formats=arguments.serving_formats, resize=arguments.resize
    )
    write_provenance(
        folder,
        {
            **environment,
            "model_type": arguments.model_type,
            "image_size": arguments.resolved_image_size(),
            "resize": arguments.resize,
            "multi_label": manifest.multi_label,
            "arguments": resolved_arguments(arguments, manifest),
            "data_digest": manifest.digest(),
            "best_step": best.step,
            "temperature": best.temperature,
            "label_sets": {"coverage": arguments.label_set_coverage, "thresholds": list(thresholds)},
            "evaluations": [evaluation.figures() for evaluation in evaluations],
            "versions": {"tensorflow": tf.__version__, "keras": keras.__version__},
        },
    )


def resolved_arguments(arguments: TrainingArguments, manifest: Manifest) -> dict[str, Any]:
    """Returns the arguments by name, with the actual values in place of 0 as a default."""
    return {
        **dataclasses.asdict(arguments),
        "num_classes": manifest.num_classes,
        "image_size": arguments.resolved_image_size(),
        "train_steps_per_eval": arguments.resolved_steps_per_eval(),
        "eval_batch_size": arguments.resolved_eval_batch_size(),
    }
