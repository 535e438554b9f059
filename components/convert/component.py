"""The convert step as a KFP component."""

from pathlib import Path

from kfp.dsl import Dataset, Output

from imgpipe.components.common.dataset import TRAIN, VALIDATION
from imgpipe.components.convert import convert as conversion
from imgpipe.components.convert.arguments import ConvertArguments


def convert(dataset: Output[Dataset], arguments: ConvertArguments) -> None:
    """Makes a data set from labelled images, or describes TFRecord files that exist already.

    Every image is opened and checked; one that TensorFlow would show wrongly (turned, transparent,
    16-bit, GIF, BMP, WebP) is encoded anew, all others are kept byte for byte. Every row ends in
    the data set or, with the reason, in rejected.csv. The same input gives the same bytes.

    Args:
        dataset: TFRecord shards (unless the input is TFRecord files, which stay where they are, or
            output_dir names another place), labels.txt, rejected.csv if a row was rejected, and
            manifest.json, which lists them.
        arguments: What to convert and how.
    """
    manifest = conversion.convert(arguments, Path(dataset.path))
    dataset.metadata["labels"] = manifest.num_classes
    dataset.metadata["train_examples"] = manifest.splits[TRAIN].examples
    dataset.metadata["validation_examples"] = manifest.splits[VALIDATION].examples
    dataset.metadata["rejected_rows"] = manifest.made_by["rejected"]
    dataset.metadata["reencoded_images"] = len(manifest.made_by["reencoded"])
