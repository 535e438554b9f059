"""Labelled images, or TFRecord files that exist already, become a Dataset: shards and a manifest.

Equal inputs give equal bytes: nothing depends on the time, the place, the number of threads or the
order of the rows. Every row that is read is written or listed in rejected.csv.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.common.dataset import TRAIN, VALIDATION, Manifest, Split, write_manifest
from components.common.errors import InvalidDataError
from components.common.labels import read_labels_file, sorted_labels, write_labels_file
from components.common.log import Progress, log_event, log_result
from components.common.records import class_to_label
from components.common.storage import local_path, written_whole
from components.common.threads import usable_threads
from components.convert.arguments import ConvertArguments
from components.convert.existing_records import scan_records
from components.convert.output_folder import LABELS_NAME, conversion_into, writing_explained
from components.convert.rejections import check_rejected, described, write_rejected
from components.convert.rows import Rejection, Row, Rows, read_csv, read_folder
from components.convert.shards import WrittenSplit, write_split
from components.convert.split import shuffled, split_rows

_BYTES_OF_MEGABYTE = 1_000_000


def convert(arguments: ConvertArguments, output_folder: Path, *, threads: int | None = None) -> Manifest:
    """Makes a data set in ``output_folder``.

    From a CSV file or a folder of images: the shards ``train-00000-of-0000N`` and
    ``validation-00000-of-0000N``, labels.txt and manifest.json. From TFRecord files: only the
    last two. manifest.json is written last: where it stands, the data set is complete. When it
    fails, nothing is left but rejected.csv.

    Args:
        arguments: What to convert and how.
        output_folder: A folder that is empty or does not exist.
        threads: How many threads check images; None = as many as the process may use.

    Returns:
        The manifest, as it was written.

    Raises:
        MissingInputError: if an input cannot be read.
        InvalidDataError: if the data is not of the form that is expected, or too many rows are rejected.
        OutputError: if the folder holds something or cannot be written.
    """
    threads = threads or usable_threads()
    # Pillow's warnings about odd metadata would stand between the lines of the log; what matters for
    # the pixels is an error or a reason to encode anew.
    with warnings.catch_warnings(), conversion_into(output_folder):
        warnings.filterwarnings("ignore", module="PIL")
        labels = read_labels_file(local_path(arguments.labels_file)) if arguments.labels_file else ()
        if arguments.training_data_path:
            manifest = _from_records(arguments, labels, threads)
        else:
            manifest = _from_images(arguments, labels, output_folder, threads)
        with writing_explained(output_folder):
            with written_whole(output_folder / LABELS_NAME) as temporary:
                write_labels_file(temporary, manifest.labels)
            write_manifest(output_folder, manifest)
    _log_done(manifest)
    return manifest


def _from_records(arguments: ConvertArguments, labels: Sequence[str], threads: int) -> Manifest:
    patterns = {TRAIN: arguments.training_data_path, VALIDATION: arguments.validation_data_path}
    splits, names = scan_records(patterns, labels, threads)
    examples = sum(split.examples for split in splits.values())
    source = {
        "form": "tfrecord",
        "training_data_path": arguments.training_data_path,
        "validation_data_path": arguments.validation_data_path,
        "labels_file": arguments.labels_file,
    }
    counts = {"rows": examples, "written": examples, "rejected": 0}
    return Manifest(names, splits, {"source": source, **counts, "reencoded": []})


def _from_images(
    arguments: ConvertArguments, known_labels: Sequence[str], folder: Path, threads: int
) -> Manifest:
    train, validation = _read_rows(arguments, known_labels)
    rows = len(train) + (len(validation) if validation else 0)
    settings: dict[str, Any] = {"seed": arguments.seed, "shard_megabytes": arguments.shard_megabytes}
    if validation is None:
        settings["validation_fraction"] = arguments.validation_fraction
        train_rows, validation_rows = split_rows(
            train.accepted, arguments.validation_fraction, arguments.seed
        )
    else:
        train_rows, validation_rows = train.accepted, validation.accepted
    labels = tuple(known_labels) or sorted_labels(row.label for row in train_rows + validation_rows)
    log_event(
        "convert_planned",
        f"convert: {rows:,} rows: {len(train_rows):,} for training, {len(validation_rows):,} for validation, "
        f"{rows - len(train_rows) - len(validation_rows):,} rejected at once; {len(labels):,} labels",
    )
    known = [*train.rejected, *(validation.rejected if validation else ())]
    if known and len(known) / rows > arguments.max_rejected_fraction:
        log_event(
            "convert_will_fail",
            f"convert: {len(known):,} rows are rejected already, more than max_rejected_fraction allows; the "
            f"step will fail once every image is checked and rejected.csv is complete. The first: "
            f"{described(known[0])}",
            severity="WARNING",
        )
    written = _write_splits(
        {TRAIN: train_rows, VALIDATION: validation_rows}, labels, folder, arguments, threads
    )
    rejected = [
        *_rejected_of(train, written[TRAIN], written[VALIDATION] if validation is None else None),
        *(_rejected_of(validation, written[VALIDATION], None) if validation else ()),
    ]
    if rejected:
        with writing_explained(folder):
            write_rejected(folder, rejected)
        check_rejected(rejected, rows, arguments.max_rejected_fraction, folder)
    splits = {name: split.split for name, split in written.items()}
    _check_not_empty(splits, arguments)
    counts = {
        "rows": rows,
        "written": sum(split.examples for split in splits.values()),
        "rejected": len(rejected),
    }
    reencoded = [entry for split in written.values() for entry in split.reencoded]
    made_by = {"source": _source(arguments), **counts, **settings, "reencoded": reencoded}
    return Manifest(labels, splits, made_by)


def _read_rows(arguments: ConvertArguments, known_labels: Sequence[str]) -> tuple[Rows, Rows | None]:
    """Returns the rows for training and for validation; None when both are still to be split."""
    if arguments.images:
        found = read_folder(arguments.images, known_labels)
        if found.other_files or found.other_folders:
            folders = "".join(f", {name}/" for name in found.other_folders)
            log_event(
                "convert_ignored",
                f"convert: not used in {arguments.images}: {found.other_files:,} files that are no images"
                + folders,
                files=found.other_files,
                folders=found.other_folders,
            )
        return found.train, found.validation
    train = read_csv(arguments.train_csv, known_labels)
    return train, read_csv(arguments.validation_csv, known_labels) if arguments.validation_csv else None


def _write_splits(
    rows_of: dict[str, list[Row]],
    labels: Sequence[str],
    folder: Path,
    arguments: ConvertArguments,
    threads: int,
) -> dict[str, WrittenSplit]:
    number_of_label = {name: class_to_label(index) for index, name in enumerate(labels)}
    progress = Progress("convert", sum(map(len, rows_of.values())), "images")
    done = 0

    def on_image() -> None:
        nonlocal done
        done += 1
        progress.update(done)

    return {
        name: write_split(
            name,
            shuffled(rows, arguments.seed, name),
            number_of_label,
            folder,
            shard_bytes=arguments.shard_megabytes * _BYTES_OF_MEGABYTE,
            threads=threads,
            on_image=on_image,
        )
        for name, rows in rows_of.items()
    }


def _rejected_of(rows: Rows, written: WrittenSplit, also: WrittenSplit | None) -> list[Rejection]:
    """Returns all rejected rows of a source in its order."""
    rejected = [*rows.rejected, *written.rejected, *(also.rejected if also else ())]
    return sorted(rejected, key=lambda row: (row.line, row.path))


def _check_not_empty(splits: dict[str, Split], arguments: ConvertArguments) -> None:
    for name, split in splits.items():
        if split.examples == 0:
            raise InvalidDataError(
                f"there is no image for {name}",
                where=arguments.images or arguments.train_csv,
                remedy="add images; a label needs at least two to be split"
                if name == VALIDATION
                else "add images, or correct the rows listed in rejected.csv",
            )


def _source(arguments: ConvertArguments) -> dict[str, str]:
    """Names the input without its folder, so that the manifest does not depend on where the data lay."""
    names = ("images",) if arguments.images else ("train_csv", "validation_csv")
    given = {name: getattr(arguments, name) for name in (*names, "labels_file")}
    form = "folder" if arguments.images else "csv"
    return {
        "form": form,
        **{name: Path(value).absolute().name if value else "" for name, value in given.items()},
    }


def _log_done(manifest: Manifest) -> None:
    counts = {name: manifest.made_by[name] for name in ("rows", "written", "rejected")}
    reencoded = len(manifest.made_by["reencoded"])
    splits = ", ".join(f"{split.examples:,} {name}" for name, split in manifest.splits.items())
    log_result(
        "convert",
        f"{counts['rows']:,} rows = {counts['written']:,} written + {counts['rejected']:,} rejected; "
        f"{splits}; {reencoded:,} encoded anew; {manifest.num_classes:,} labels",
        **counts,
        reencoded=reencoded,
    )
