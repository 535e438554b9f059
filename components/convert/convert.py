"""Labelled images, or TFRecord files that exist already, become a Dataset: shards and a manifest.

Equal inputs give equal bytes: nothing depends on the time, the place, the number of threads or the
order of the rows. Every row that is read is written or listed in rejected.csv.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgpipe.components.common.dataset import (
    MANIFEST_NAME,
    TEST,
    TRAIN,
    VALIDATION,
    Manifest,
    Split,
    serialize_manifest,
    with_absolute_paths,
)
from imgpipe.components.common.errors import InvalidDataError
from imgpipe.components.common.labels import format_labels, read_labels_file, sort_labels
from imgpipe.components.common.log import Progress, log_event, log_result
from imgpipe.components.common.records import class_to_label, label_to_class
from imgpipe.components.common.resources import release_free_memory, usable_threads
from imgpipe.components.convert.arguments import ConvertArguments
from imgpipe.components.convert.equal_images import group_equal_images
from imgpipe.components.convert.existing_records import scan_records
from imgpipe.components.convert.finished import (
    INPUTS,
    check_same_records,
    check_same_rows,
    finished_manifest,
    inputs_digest,
)
from imgpipe.components.convert.image_folders import read_images
from imgpipe.components.convert.import_files import read_import_file
from imgpipe.components.convert.label_set import parse_label_set
from imgpipe.components.convert.output_folder import (
    LABELS_NAME,
    explain_write_errors,
    publish,
    reserve_output_folder,
    shard_name,
)
from imgpipe.components.convert.rejections import (
    REJECTED_NAME,
    check_rejected,
    described,
    format_rejections,
    log_rejected,
)
from imgpipe.components.convert.remote_files import check_remote_files
from imgpipe.components.convert.row_table import RowSelection
from imgpipe.components.convert.rows import Rows
from imgpipe.components.convert.shards import (
    ImageRules,
    ShardPlan,
    ShardResult,
    find_finished_shard,
    write_shards,
)
from imgpipe.components.convert.split import fractions_of, shuffle_rows, split_rows
from imgpipe.components.storage import Location, parse_location

_BYTES_PER_MEGABYTE = 1_000_000
_SPLITS = (TRAIN, VALIDATION, TEST)

# Writes shards into the output folder's work folder and returns what became of their rows, in order; calls
# the function after each image or after each shard with the number of images.
ShardWriter = Callable[
    [Sequence[ShardPlan], ImageRules, Location, Callable[[int], None]], Sequence[ShardResult]
]


def convert(
    arguments: ConvertArguments,
    output_folder: Path | str,
    *,
    threads: int | None = None,
    writer: ShardWriter | None = None,
) -> Manifest:
    """Makes a data set in ``output_folder``.

    From a list, a folder or a pattern of images: the shards ``train-00000-of-0000N``,
    ``validation-00000-of-0000N`` and, if there is a test split, ``test-00000-of-0000N``, labels.txt and
    manifest.json. From TFRecord files: only the last two. manifest.json is written last: where it
    stands, the data set is complete. A conversion that was interrupted or killed goes on when it is
    started again; one that fails leaves nothing but rejected.csv. One that finished is left as it is when the
    same is asked for again: the rows are read, but no image.

    With ``arguments.output_dir`` the data set is made there, and ``output_folder`` gets a manifest with the
    places of the shards, the labels and rejected.csv.

    Args:
        arguments: What to convert and how.
        output_folder: A folder, local or ``gs://``, that is empty or does not exist; with ``output_dir``, a
            local one.
        threads: How many threads check images; None = as many as the process may use.
        writer: What writes the shards; None = threads of this process.

    Returns:
        The manifest, as it was written to ``output_folder``.

    Raises:
        MissingInputError: if an input cannot be read.
        InvalidDataError: if the data is not of the form that is expected, or too many rows are rejected.
        OutputError: if the folder holds something or cannot be written.
        InterruptedRunError: if the run was told to stop, or Cloud Storage cannot be reached.
    """
    threads = threads or usable_threads()
    target = parse_location(str(output_folder))
    data_folder = parse_location(arguments.output_dir) if arguments.output_dir else target
    # Pillow's warnings about odd metadata would stand between the lines of the log; what matters for
    # the pixels is an error or a reason to encode anew.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        manifest = finished_manifest(data_folder)
        if manifest is not None:
            _check_same(manifest, arguments, data_folder)
            log_event(
                "convert_already_finished",
                f"convert: {data_folder} holds the whole data set already; nothing is made again",
            )
        else:
            manifest = _make_dataset(arguments, data_folder, threads, writer or _thread_writer(threads))
    if arguments.output_dir:
        manifest = with_absolute_paths(manifest, data_folder)
        _write_description(manifest, data_folder, target)
    _log_summary(manifest)
    return manifest


def _check_same(manifest: Manifest, arguments: ConvertArguments, folder: Location) -> None:
    """Refuses a data set that is finished but is not what the arguments ask for."""
    labels = _read_labels(arguments)
    if arguments.training_data_path:
        check_same_records(manifest, folder, _patterns(arguments), labels, multi_label=arguments.multi_label)
        return
    rows = _read_rows(arguments, labels)
    check_same_rows(manifest, folder, arguments, rows, inputs_digest(arguments, labels, rows))


def _make_dataset(
    arguments: ConvertArguments, folder: Location, threads: int, writer: ShardWriter
) -> Manifest:
    shards: list[str] = []
    with reserve_output_folder(folder):
        labels = _read_labels(arguments)
        if arguments.training_data_path:
            manifest = _from_records(arguments, labels, threads)
        else:
            manifest, shards = _from_images(arguments, labels, folder, threads, writer)
        files = {
            LABELS_NAME: format_labels(manifest.labels).encode(),
            MANIFEST_NAME: serialize_manifest(manifest),
        }
        publish(folder, shards, files)
    return manifest


def _read_labels(arguments: ConvertArguments) -> tuple[str, ...]:
    if not arguments.labels_file:
        return ()
    with parse_location(arguments.labels_file).local_copy() as path:
        return read_labels_file(path, display_name=arguments.labels_file)


def _patterns(arguments: ConvertArguments) -> dict[str, str]:
    return {TRAIN: arguments.training_data_path, VALIDATION: arguments.validation_data_path}


def _write_description(manifest: Manifest, data_folder: Location, folder: Location) -> None:
    """Writes a manifest, the labels and rejected.csv of the data in ``data_folder`` into ``folder``."""
    with explain_write_errors(folder):
        if manifest.made_by["rejected"]:
            (folder / REJECTED_NAME).write((data_folder / REJECTED_NAME).read())
        (folder / LABELS_NAME).write(format_labels(manifest.labels).encode())
        (folder / MANIFEST_NAME).write(serialize_manifest(manifest))


def _from_records(arguments: ConvertArguments, labels: Sequence[str], threads: int) -> Manifest:
    splits, names = scan_records(_patterns(arguments), labels, threads, multi_label=arguments.multi_label)
    _check_has_labels(names, arguments)
    examples = sum(split.examples for split in splits.values())
    source = {
        "form": "tfrecord",
        "training_data_path": arguments.training_data_path,
        "validation_data_path": arguments.validation_data_path,
        "labels_file": arguments.labels_file,
    }
    counts = {"rows": examples, "written": examples, "rejected": 0}
    made_by = {"source": source, **counts, "reencoded": []}
    return Manifest(names, splits, made_by, arguments.multi_label)


def _from_images(
    arguments: ConvertArguments,
    known_labels: tuple[str, ...],
    folder: Location,
    threads: int,
    writer: ShardWriter,
) -> tuple[Manifest, list[str]]:
    rows = _read_rows(arguments, known_labels)
    inputs = inputs_digest(arguments, known_labels, rows)
    numbers_of, drawn = _splits(rows, arguments, threads)
    labels = known_labels or _labels_of(rows, numbers_of, multi_label=arguments.multi_label)
    _log_planned(rows, numbers_of, labels, arguments)
    rules = ImageRules(
        {name: class_to_label(index) for index, name in enumerate(labels)},
        arguments.max_image_pixels,
        arguments.max_image_bytes,
        arguments.multi_label,
    )
    plans = {
        name: _plan_shards(
            name,
            RowSelection(rows.accepted, shuffle_rows(rows.accepted, numbers, arguments.seed, name)),
            arguments.shard_megabytes * _BYTES_PER_MEGABYTE,
        )
        for name, numbers in numbers_of.items()
    }
    del numbers_of
    # Planning many rows takes arrays that the long work of writing has no use for.
    release_free_memory()
    results = _write_missing_shards(plans, rules, folder, writer)
    rejected = rows.sort_rejections(
        [row for split_results in results.values() for result in split_results for row in result.rejected]
    )
    if rejected:
        with explain_write_errors(folder):
            (folder / REJECTED_NAME).write(format_rejections(rejected))
        log_rejected(rejected, folder)
        check_rejected(rejected, len(rows), arguments.max_rejected_fraction, folder)
    splits = {name: _split_of(split_results, len(labels)) for name, split_results in results.items()}
    _check_not_empty(splits, arguments)
    _check_has_labels(labels, arguments)
    made_by: dict[str, Any] = {
        "source": _source(arguments),
        INPUTS: inputs,
        "rows": len(rows),
        "written": sum(split.examples for split in splits.values()),
        "rejected": len(rejected),
        "seed": arguments.seed,
        "shard_megabytes": arguments.shard_megabytes,
        **drawn,
        "reencoded": [
            entry
            for split_results in results.values()
            for result in split_results
            for entry in result.reencoded
        ],
    }
    manifest = Manifest(labels, splits, made_by, arguments.multi_label)
    return manifest, [plan.name for some in plans.values() for plan in some]


def _read_rows(arguments: ConvertArguments, known_labels: Sequence[str]) -> Rows:
    multi_label = arguments.multi_label
    rows = Rows(known_labels, max_image_bytes=arguments.max_image_bytes, multi_label=multi_label)
    if arguments.images:
        not_used = read_images(rows, arguments.images)
        if not_used.files or not_used.folders:
            folders = "".join(f", {name}/" for name in not_used.folders)
            examples = f" ({', '.join(not_used.examples)})" if not_used.examples else ""
            log_event(
                "convert_ignored",
                f"convert: not used in {arguments.images}: {not_used.files:,} files that are in no "
                f"label's folder or whose names do not end like an image's{examples}{folders}",
                severity="WARNING",
                files=not_used.files,
                folders=not_used.folders,
            )
    else:
        undivided = TRAIN if arguments.validation_csv else ""
        read_import_file(rows, arguments.train_csv, undivided, multi_label=multi_label)
        if arguments.validation_csv:
            read_import_file(rows, arguments.validation_csv, VALIDATION, multi_label=multi_label)
        if arguments.test_csv:
            read_import_file(rows, arguments.test_csv, TEST, multi_label=multi_label)
    check_remote_files(rows)
    return rows


def _splits(
    rows: Rows, arguments: ConvertArguments, threads: int
) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, float]]:
    """Returns the numbers of the rows by split, and the settings by which some were drawn."""
    table = rows.accepted
    numbers_of = {name: table.rows_for(name) for name in _SPLITS}
    undecided = table.rows_for("")
    settings: dict[str, float] = {}
    if len(undecided):
        groups = group_equal_images(table, undecided, threads)
        test_fraction = 0.0 if arguments.test_csv else arguments.test_fraction
        fractions = fractions_of(arguments.validation_fraction, test_fraction)
        drawn = split_rows(
            table, undecided, groups, fractions, arguments.seed, multi_label=arguments.multi_label
        )
        numbers_of = {
            name: np.concatenate([numbers_of[name], drawn.get(name, np.zeros(0, np.int64))])
            for name in _SPLITS
        }
        settings = {f"{name}_fraction": fraction for name, fraction in fractions.items()}
    if not len(numbers_of[TEST]):
        del numbers_of[TEST]
    return numbers_of, settings


def _labels_of(
    rows: Rows, numbers_of: dict[str, npt.NDArray[np.int64]], *, multi_label: bool
) -> tuple[str, ...]:
    used = np.unique(
        np.concatenate([rows.accepted.label_indices(numbers) for numbers in numbers_of.values()])
    )
    texts = [rows.accepted.label_names[int(number)] for number in used]
    return sort_labels(chain.from_iterable(map(parse_label_set, texts)) if multi_label else texts)


def _plan_shards(split: str, rows: RowSelection, shard_bytes: int) -> list[ShardPlan]:
    """Divides a split's rows, in their order, evenly among its shards.

    The number of shards follows from the sizes of the images' files, so it is known before the first
    image is opened.
    """
    count = min(len(rows), max(1, -(-rows.bytes // shard_bytes)))
    return [
        ShardPlan(
            shard_name(split, number, count),
            rows[number * len(rows) // count : (number + 1) * len(rows) // count],
        )
        for number in range(count)
    ]


def _write_missing_shards(
    plans_of: dict[str, list[ShardPlan]], rules: ImageRules, folder: Location, writer: ShardWriter
) -> dict[str, list[ShardResult]]:
    """Writes the shards that are not finished yet and returns, for every split, what became of its rows."""
    names = folder.contents()
    finished: dict[str, ShardResult] = {}
    waiting = []
    for plan in (plan for plans in plans_of.values() for plan in plans):
        known = find_finished_shard(folder, names, plan, rules)
        if known is None:
            waiting.append(plan)
        else:
            finished[plan.name] = known
    if finished:
        log_event(
            "shards_kept",
            f"convert: {len(finished):,} shards of an earlier run are finished and are not made again",
            shards=sorted(finished),
        )
    progress = Progress("convert", sum(len(plan.rows) for plan in waiting), "images")
    done = 0

    def on_images(count: int) -> None:
        nonlocal done
        done += count
        progress.update(done)

    if waiting:
        results = writer(waiting, rules, folder, on_images)
        finished.update((result.shard.path, result) for result in results)
    return {name: [finished[plan.name] for plan in plans] for name, plans in plans_of.items()}


def _thread_writer(threads: int) -> ShardWriter:
    def write(
        plans: Sequence[ShardPlan], rules: ImageRules, folder: Location, on_images: Callable[[int], None]
    ) -> Sequence[ShardResult]:
        return list(write_shards(plans, rules, folder, threads=threads, on_images=on_images))

    return write


def _split_of(results: Sequence[ShardResult], labels: int) -> Split:
    counts: Counter[int] = Counter()
    for result in results:
        counts.update(result.images_per_label)
    images_per_label = [0] * labels
    for label, count in counts.items():
        images_per_label[label_to_class(label)] = count
    return Split(tuple(result.shard for result in results), tuple(images_per_label))


def _check_not_empty(splits: dict[str, Split], arguments: ConvertArguments) -> None:
    for name in (TRAIN, VALIDATION):
        if splits[name].examples == 0:
            raise InvalidDataError(
                f"there is no image for {name}",
                where=arguments.images or arguments.train_csv,
                remedy="add images: a label needs at least two to be split; where all rows say training, "
                "mark some as validation or give validation_csv"
                if name == VALIDATION
                else "add images, or correct the rows listed in rejected.csv",
            )


def _check_has_labels(labels: Sequence[str], arguments: ConvertArguments) -> None:
    if not labels:
        raise InvalidDataError(
            "no image has a label",
            where=arguments.train_csv or arguments.training_data_path,
            remedy="write labels into image/class/label of the records, or give labels_file"
            if arguments.training_data_path
            else "write each image's labels behind its path, path,label,label,...",
        )


def _source(arguments: ConvertArguments) -> dict[str, str]:
    """Names the input without its folder, so that the manifest does not depend on where the data lay."""
    names = ("images",) if arguments.images else ("train_csv", "validation_csv", "test_csv")
    given = {name: getattr(arguments, name) for name in (*names, "labels_file")}
    return {
        "form": "folder" if arguments.images else "csv",
        **{name: Path(value).absolute().name if value else "" for name, value in given.items()},
    }


def _log_planned(
    rows: Rows,
    numbers_of: dict[str, npt.NDArray[np.int64]],
    labels: Sequence[str],
    arguments: ConvertArguments,
) -> None:
    splits = ", ".join(f"{len(numbers):,} {name}" for name, numbers in numbers_of.items())
    rejected = rows.sort_rejections()
    log_event(
        "convert_planned",
        f"convert: {len(rows):,} rows: {splits}, {len(rejected):,} rejected at once; {len(labels):,} labels",
    )
    if rejected and len(rejected) / len(rows) > arguments.max_rejected_fraction:
        log_event(
            "convert_will_fail",
            f"convert: {len(rejected):,} rows are rejected already, more than max_rejected_fraction allows; "
            f"the step will fail once every image is checked and rejected.csv is complete. The first: "
            f"{described(rejected[0])}",
            severity="WARNING",
        )


def _log_summary(manifest: Manifest) -> None:
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
