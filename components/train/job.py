"""A training run's settings, data and devices, and what is built from them."""

import hashlib
from dataclasses import dataclass
from typing import Any

from imgpipe.components.common.dataset import Manifest
from imgpipe.components.common.tf_import import keras
from imgpipe.components.train.accelerators import Accelerators
from imgpipe.components.train.arguments import TrainingArguments
from imgpipe.components.train.models import Classifier, build_classifier, rate_factors
from imgpipe.components.train.schedules import build_optimizer
from imgpipe.components.train.written_model import resolved_arguments

# The settings that may change when an interrupted training run resumes.
_FREE_TO_CHANGE = frozenset(
    {
        "early_stopping_patience",
        "eval_batch_size",
        "job_dir",
        "keep_checkpoints",
        "max_duration",
        # It decides which network is trained, which is compared.
        "max_latency_ms",
        "max_minutes",
        "max_steps",
        # Determined by the data, whose digest is compared.
        "multi_label",
        # It only stands for values of other arguments.
        "recipe",
        "train_steps_per_eval",
    }
)


@dataclass(frozen=True)
class Job:
    """The inputs of a training run."""

    arguments: TrainingArguments
    manifest: Manifest
    accelerators: Accelerators
    precision: str

    def build_classifier(self, *, weights: str, pretrained_checkpoint_path: str) -> Classifier:
        """Builds the network; to train it, call this in the strategy's scope."""
        return build_classifier(
            self.arguments.model_type,
            num_classes=self.manifest.num_classes,
            image_size=self.arguments.resolved_image_size(),
            weights=weights,
            seed=self.arguments.seed,
            freeze=self.arguments.freeze,
            precision=self.precision,
            pretrained_checkpoint_path=pretrained_checkpoint_path,
        )

    def build_optimizer(self, classifier: Classifier) -> keras.optimizers.Optimizer:
        """Builds the optimizer; call this in the strategy's scope."""
        factors = rate_factors(classifier, self.arguments.layer_decay)
        return build_optimizer(self.arguments, self.precision, factors)

    def on_one_device(self, classifier: Classifier) -> Classifier:
        """Returns the model with variables on one device, since one process cannot save those of several."""
        if not self.accelerators.uses_strategy:
            return classifier
        copy = self.build_classifier(weights="none", pretrained_checkpoint_path="")
        for variable, original in zip(copy.variables, classifier.variables, strict=True):
            variable.assign(self.accelerators.local_value(original))
        return copy

    def describe_devices(self) -> str:
        """Returns e.g. ``CPU``, ``4 x GPU`` or ``8 x GPU in 2 processes``."""
        count, workers = self.accelerators.replicas, self.accelerators.workers
        devices = f"{count} x {self.accelerators.kind}" if count > 1 else self.accelerators.kind
        return f"{devices} in {workers} processes" if workers > 1 else devices

    def identity(self, classifier: Classifier) -> dict[str, Any]:
        """Returns the values that must not change when an interrupted training run resumes.

        They include the digest of a frozen backbone: its checkpoints contain only the last layer, and the
        model at ``pretrained_checkpoint_path`` may have been replaced since.
        """
        settings = resolved_arguments(self.arguments, self.manifest)
        identity = {name: value for name, value in settings.items() if name not in _FREE_TO_CHANGE}
        if self.arguments.freeze == "backbone":
            digest = hashlib.sha256()
            for variable in classifier.network.variables:
                digest.update(self.accelerators.local_value(variable).tobytes())
            identity["backbone_digest"] = digest.hexdigest()
        return {**identity, "data_digest": self.manifest.digest()}
