"""The convert step as a KFP component."""

from pathlib import Path

from kfp.dsl import Dataset, Output

from imgpipe.components.common.dataset import TRAIN, VALIDATION
from imgpipe.components.convert import convert as conversion
from imgpipe.components.convert.arguments import ConvertArguments


def convert(dataset: Output[Dataset], arguments: ConvertArguments) -> None:
    """Makes a data set from labeled images, or describes existing TFRecord files.

    Every image is opened and checked. Images that TensorFlow would not decode correctly (rotated by
    EXIF, transparent, 16-bit, GIF, BMP, WebP, TIFF, AVIF) are re-encoded; all others are kept byte for
    byte. Every row is either written to the data set or listed in rejected.csv with the reason. The same
    input gives the same bytes.

    Args:
        dataset: TFRecord shards (unless the input is TFRecord files, which are used in place, or
            output_dir is set), labels.txt, rejected.csv if a row was rejected, and manifest.json,
            which lists the shards.
        arguments: The input data and conversion settings.
    """
    manifest = conversion.convert(arguments, Path(dataset.path))
    dataset.metadata["labels"] = manifest.num_classes
    dataset.metadata["train_examples"] = manifest.splits[TRAIN].examples
    dataset.metadata["validation_examples"] = manifest.splits[VALIDATION].examples
    dataset.metadata["rejected_rows"] = manifest.made_by["rejected"]
    dataset.metadata["reencoded_images"] = len(manifest.made_by["reencoded"])
