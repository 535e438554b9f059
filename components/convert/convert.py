"""Converts labeled images, or describes existing TFRecord files: a Dataset of shards and a manifest.

Equal inputs give equal bytes: the output does not depend on the time, the folder, the number of threads or
the order of the rows. Every row that is read is written, listed in rejected.csv, or left out by a person's
decision.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
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
from imgpipe.components.common.errors import InvalidDataError, must_be_writable
from imgpipe.components.common.labels import (
    check_look_alikes,
    find_combined,
    find_equal_numbers,
    find_missing,
    format_labels,
    sort_labels,
)
from imgpipe.components.common.log import Progress, log_event, log_result
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.common.plural import plural
from imgpipe.components.common.records import class_to_label
from imgpipe.components.common.resources import release_free_memory, usable_threads
from imgpipe.components.convert.arguments import AUTO, ConvertArguments
from imgpipe.components.convert.decisions import apply_decisions, read_decisions
from imgpipe.components.convert.equal_images import group_equal_images
from imgpipe.components.convert.existing_records import scan_records
from imgpipe.components.convert.finished import (
    INPUTS,
    check_same_records,
    check_same_rows,
    digest_inputs,
    read_finished_manifest,
)
from imgpipe.components.convert.image_folders import read_images
from imgpipe.components.convert.image_reader import ImageReader
from imgpipe.components.convert.import_files import read_import_file
from imgpipe.components.convert.label_set import parse_label_set
from imgpipe.components.convert.labels_file import read_user_labels
from imgpipe.components.convert.near_duplicates import group_near_duplicates, merge_groups
from imgpipe.components.convert.output_folder import (
    LABELS_NAME,
    publish,
    reserve_output_folder,
    shard_name,
)
from imgpipe.components.convert.rejections import (
    REJECTED_NAME,
    check_rejected,
    describe_rejection,
    format_rejections,
    log_rejected,
)
from imgpipe.components.convert.remote_files import check_remote_files
from imgpipe.components.convert.row_table import RowSelection, RowTable
from imgpipe.components.convert.rows import Rows
from imgpipe.components.convert.shards import (
    ImageRules,
    ShardPlan,
    ShardResult,
    find_finished_shard,
    make_split,
    write_shards,
)
from imgpipe.components.convert.split import shuffle_rows, split_rows
from imgpipe.components.storage import PARALLEL_DOWNLOADS, Location, find_files, parse_location

_BYTES_PER_MEGABYTE = 1_000_000
_SPLITS = (TRAIN, VALIDATION, TEST)
_MAX_LABELS_SHOWN = 10

# Writes shards into the output folder's work folder and returns their results, in order; calls the function
# with the number of images after every few images or after each shard.
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

    A list, a folder or a pattern of images gives the shards ``train-00000-of-0000N``,
    ``validation-00000-of-0000N`` and, if there is a test split, ``test-00000-of-0000N``, labels.txt and
    manifest.json; TFRecord files give only the last two. manifest.json is written last: a folder that
    contains it is complete. A conversion that was interrupted or killed resumes when it is started again;
    one that fails leaves only rejected.csv. Repeating a finished conversion changes nothing: the rows are
    read, but no image.

    With ``arguments.output_dir`` the data set is made there; ``output_folder`` gets a manifest with the
    shards' locations, labels.txt and rejected.csv.

    Args:
        arguments: The input data and conversion settings.
        output_folder: An empty or new folder, local or in a bucket; with ``output_dir``, a local one.
        threads: The number of threads that check images; None = as many as the process may use.
        writer: Writes the shards; None = threads of this process.

    Returns:
        The manifest, as written to ``output_folder``.

    Raises:
        MissingInputError: if an input cannot be read.
        InvalidDataError: if the data does not have the expected form, or too many rows are rejected.
        OutputError: if the folder contains other files or cannot be written.
        InterruptedRunError: if the run is stopped, or a remote store cannot be reached.
    """
    threads = threads or usable_threads()
    target = parse_location(str(output_folder))
    data_folder = parse_location(arguments.output_dir) if arguments.output_dir else target
    # Pillow's warnings about odd metadata would clutter the log; problems that affect the pixels are errors
    # or reasons to re-encode.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        manifest = read_finished_manifest(data_folder)
        if manifest is not None:
            _check_same(manifest, arguments, data_folder)
            log_event(
                "convert_already_finished",
                f"convert: {data_folder} already contains the complete data set; it is reused",
            )
        else:
            manifest = _make_dataset(arguments, data_folder, threads, writer)
    if arguments.output_dir:
        manifest = with_absolute_paths(manifest, data_folder)
        _write_description(manifest, data_folder, target)
    _warn_of_common_labels(manifest)
    _log_summary(manifest)
    return manifest


def _check_same(manifest: Manifest, arguments: ConvertArguments, folder: Location) -> None:
    labels = _read_labels(arguments)
    if arguments.training_data_path:
        files = {name: find_files(pattern) for name, pattern in _patterns(arguments).items()}
        check_same_records(manifest, folder, files, labels, multi_label=arguments.multi_label)
        return
    rows = _read_rows(arguments, labels)
    check_same_rows(manifest, folder, arguments, rows, digest_inputs(arguments, labels, rows))


def _make_dataset(
    arguments: ConvertArguments, folder: Location, threads: int, writer: ShardWriter | None
) -> Manifest:
    shards: list[str] = []
    with reserve_output_folder(folder):
        labels = _read_labels(arguments)
        if arguments.training_data_path:
            manifest = _describe_records(arguments, labels, threads)
        else:
            # Another writer reads the images elsewhere: here, their ends are enough.
            with ImageReader(0 if writer else None) as images:
                write = writer or partial(write_shards, threads=threads, images=images)
                manifest, shards = _convert_images(arguments, labels, folder, threads, images, write)
        publish(folder, shards, _metadata_files(manifest))
    return manifest


def _metadata_files(manifest: Manifest) -> dict[str, bytes]:
    return {
        LABELS_NAME: format_labels(manifest.labels).encode(),
        MANIFEST_NAME: serialize_manifest(manifest),
    }


def _read_labels(arguments: ConvertArguments) -> tuple[str, ...]:
    return read_user_labels(arguments.labels_file) if arguments.labels_file else ()


def _patterns(arguments: ConvertArguments) -> dict[str, str]:
    patterns = {
        TRAIN: arguments.training_data_path,
        VALIDATION: arguments.validation_data_path,
        TEST: arguments.test_data_path,
    }
    return {name: pattern for name, pattern in patterns.items() if pattern}


def _write_description(manifest: Manifest, data_folder: Location, folder: Location) -> None:
    """Writes the manifest, labels.txt and rejected.csv of the data set in ``data_folder`` to ``folder``."""
    with must_be_writable(f"to {folder!r}"):
        if manifest.made_by["rejected"]:
            (folder / REJECTED_NAME).write((data_folder / REJECTED_NAME).read())
        for name, content in _metadata_files(manifest).items():
            (folder / name).write(content)


def _describe_records(arguments: ConvertArguments, labels: Sequence[str], threads: int) -> Manifest:
    splits, names = scan_records(_patterns(arguments), labels, threads, multi_label=arguments.multi_label)
    _check_has_labels(names, arguments)
    _check_look_alikes(names, arguments)
    examples = sum(split.examples for split in splits.values())
    source = {
        "form": "tfrecord",
        "training_data_path": arguments.training_data_path,
        "validation_data_path": arguments.validation_data_path,
        "test_data_path": arguments.test_data_path,
        "labels_file": arguments.labels_file,
    }
    counts = {"rows": examples, "written": examples, "rejected": 0}
    made_by = {"source": source, **counts, "reencoded": []}
    return Manifest(names, splits, made_by, arguments.multi_label)


def _convert_images(
    arguments: ConvertArguments,
    known_labels: tuple[str, ...],
    folder: Location,
    threads: int,
    images: ImageReader,
    writer: ShardWriter,
) -> tuple[Manifest, list[str]]:
    rows = _read_rows(arguments, known_labels)
    inputs = digest_inputs(arguments, known_labels, rows)
    numbers_of, fractions = _assign_splits(rows, arguments, threads, images)
    labels = known_labels or _find_labels(rows, numbers_of, multi_label=arguments.multi_label)
    _check_look_alikes(labels, arguments)
    _log_plan(rows, numbers_of, labels, arguments)
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
    # Planning many rows takes large arrays that writing does not need.
    release_free_memory()
    results = _write_missing_shards(plans, rules, folder, writer)
    rejected = rows.sort_rejections(
        [row for split_results in results.values() for result in split_results for row in result.rejected]
    )
    if rejected:
        with must_be_writable(f"to {folder!r}"):
            (folder / REJECTED_NAME).write(format_rejections(rejected))
        log_rejected(rejected, folder)
        check_rejected(rejected, len(rows), arguments.max_rejected_fraction, folder)
    splits = {
        name: make_split(
            [result.shard for result in split_results],
            [result.images_per_label for result in split_results],
            len(labels),
        )
        for name, split_results in results.items()
    }
    _check_not_empty(splits, arguments)
    _check_has_labels(labels, arguments)
    made_by: dict[str, Any] = {
        "source": _describe_source(arguments),
        INPUTS: inputs,
        "rows": len(rows),
        "written": sum(split.examples for split in splits.values()),
        "rejected": len(rejected),
        **({"dropped": rows.dropped} if arguments.decisions else {}),
        "seed": arguments.seed,
        "shard_megabytes": arguments.shard_megabytes,
        **fractions,
        "reencoded": [
            entry
            for split_results in results.values()
            for result in split_results
            for entry in result.reencoded
        ],
    }
    manifest = Manifest(labels, splits, made_by, arguments.multi_label)
    return manifest, [plan.name for split_plans in plans.values() for plan in split_plans]


def _read_rows(arguments: ConvertArguments, known_labels: Sequence[str]) -> Rows:
    multi_label = arguments.multi_label
    # First: a wrong line is reported before the images are listed.
    decisions = read_decisions(arguments.decisions) if arguments.decisions else []
    rows = Rows(known_labels, max_image_bytes=arguments.max_image_bytes, multi_label=multi_label)
    if arguments.images:
        ignored = read_images(rows, arguments.images, arguments.label_from)
        if ignored.files or ignored.folders:
            parts = [f"{name}/" for name in ignored.folders]
            if ignored.files:
                parts.insert(
                    0,
                    f"{plural(ignored.files, 'file')} outside the label folders or without an image file "
                    f"extension ({', '.join(ignored.examples)})",
                )
            log_event(
                "convert_ignored",
                f"convert: ignored in {arguments.images}: {', '.join(parts)}",
                severity="WARNING",
                files=ignored.files,
                folders=ignored.folders,
            )
    else:
        train_use = TRAIN if arguments.validation_csv else ""
        lists = (
            (arguments.train_csv, train_use),
            (arguments.validation_csv, VALIDATION),
            (arguments.test_csv, TEST),
        )
        for file, use in lists:
            if file:
                read_import_file(
                    rows,
                    file,
                    use,
                    multi_label=multi_label,
                    columns=arguments.columns,
                    image_root=arguments.image_root,
                )
    check_remote_files(rows)
    if arguments.decisions:
        apply_decisions(rows, decisions, arguments.decisions, known_labels, multi_label=multi_label)
    return rows


def _assign_splits(
    rows: Rows, arguments: ConvertArguments, threads: int, images: ImageReader
) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, Any]]:
    """Returns the row numbers of each split, and what the manifest says about a random split."""
    table = rows.accepted
    numbers_of = {name: table.rows_for(name) for name in _SPLITS}
    unassigned = table.rows_for("")
    settings: dict[str, Any] = {}
    if len(unassigned):
        groups, settings = _groups_to_keep(table, unassigned, arguments, threads, images)
        fractions = {VALIDATION: arguments.validation_fraction}
        has_test = arguments.test_csv or (arguments.images and len(numbers_of[TEST]))
        if arguments.test_fraction and not has_test:
            fractions[TEST] = arguments.test_fraction
        drawn = split_rows(
            table, unassigned, groups, fractions, arguments.seed, multi_label=arguments.multi_label
        )
        numbers_of = {
            name: np.concatenate([numbers_of[name], drawn.get(name, np.zeros(0, np.int64))])
            for name in _SPLITS
        }
        settings |= {f"{name}_fraction": fraction for name, fraction in fractions.items()}
    _warn_of_divided_groups(table, numbers_of)
    if not len(numbers_of[TEST]):
        del numbers_of[TEST]
    return numbers_of, settings


def _warn_of_divided_groups(table: RowTable, numbers_of: dict[str, npt.NDArray[np.int64]]) -> None:
    """Warns of groups that the input itself divides between splits."""
    names = table.group_names
    held = {name: set(table.group_indices(numbers).tolist()) - {-1} for name, numbers in numbers_of.items()}
    for split in (VALIDATION, TEST) if names else ():
        if divided := sorted(names[group] for group in held[TRAIN] & held[split]):
            log_event(
                "groups_divided",
                f"convert: the input assigns rows of {plural(len(divided), 'group')}, e.g. {divided[0]!r}, "
                f"to both train and {split}: the accuracy on {split} will be too high",
                severity="WARNING",
                groups=len(divided),
            )


def _groups_to_keep(
    table: RowTable,
    numbers: npt.NDArray[np.int64],
    arguments: ConvertArguments,
    threads: int,
    images: ImageReader,
) -> tuple[npt.NDArray[np.int64], dict[str, Any]]:
    """Returns the groups of rows that must not be split, and what the manifest says about them.

    They are equal images, near-duplicates and the user's groups.
    """
    settings: dict[str, Any] = {}
    groups = group_equal_images(table, numbers, threads, images)
    if arguments.group_near_duplicates:
        equal = groups
        groups = group_near_duplicates(table, numbers, equal, threads, images, arguments.max_image_pixels)
        settings |= _report_near_duplicates(table, numbers, equal, groups)
    given = table.group_indices(numbers)
    if (given >= 0).any():
        # A row without a group is one of its own.
        own = len(table.group_names) + np.arange(len(given))
        groups = merge_groups(groups, np.where(given >= 0, given, own))
        settings["groups"] = len(table.group_names)
    return groups, settings


def _report_near_duplicates(
    table: RowTable,
    numbers: npt.NDArray[np.int64],
    equal: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
) -> dict[str, Any]:
    """Logs the near-duplicates and returns their number by its name in the manifest, if there are any."""
    _, firsts = np.unique(equal, return_index=True)
    names, images = np.unique(groups[firsts], return_counts=True)
    several = images > 1
    if not several.any():
        return {}
    count = int(images[several].sum())
    shown = firsts[groups[firsts] == names[np.argmax(several)]][:2]
    examples = " and ".join(repr(table.path(int(numbers[index]))) for index in shown)
    log_event(
        "near_duplicates",
        f"convert: {count:,} different images are near-duplicates, in "
        f"{plural(int(several.sum()), 'group')} of up to {images.max():,}, e.g. {examples}; each group is "
        "kept in one split, unless group_near_duplicates is false",
        groups=int(several.sum()),
        images=count,
    )
    return {"near_duplicates": count}


def _find_labels(
    rows: Rows, numbers_of: dict[str, npt.NDArray[np.int64]], *, multi_label: bool
) -> tuple[str, ...]:
    used = np.unique(
        np.concatenate([rows.accepted.label_indices(numbers) for numbers in numbers_of.values()])
    )
    texts = [rows.accepted.label_names[int(number)] for number in used]
    return sort_labels(chain.from_iterable(map(parse_label_set, texts)) if multi_label else texts)


def _plan_shards(split: str, rows: RowSelection, shard_bytes: int) -> list[ShardPlan]:
    """Divides a split's rows, in order, evenly among its shards.

    The number of shards follows from the sizes of the image files, so it is known before an image is opened.
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
    """Writes the shards that are not finished yet and returns the results of all shards by split."""
    names = folder.contents()
    finished: dict[str, ShardResult] = {}
    pending = []
    plans = [plan for plans in plans_of.values() for plan in plans]
    found = map_in_order(
        lambda plan: find_finished_shard(folder, names, plan, rules), plans, PARALLEL_DOWNLOADS
    )
    for plan, known in zip(plans, found, strict=True):
        if known is None:
            pending.append(plan)
        else:
            finished[plan.name] = known
    if finished:
        log_event(
            "shards_kept",
            f"convert: reused {plural(len(finished), 'finished shard')} of an earlier run",
            shards=sorted(finished),
        )
    progress = Progress("convert", sum(len(plan.rows) for plan in pending), "images")
    if pending:
        results = writer(pending, rules, folder, progress.add)
        finished.update((result.shard.path, result) for result in results)
    return {name: [finished[plan.name] for plan in plans] for name, plans in plans_of.items()}


def _check_not_empty(splits: dict[str, Split], arguments: ConvertArguments) -> None:
    for name in (TRAIN, VALIDATION):
        if splits[name].examples == 0:
            raise InvalidDataError(
                f"there is no image for {name}",
                where=arguments.images or arguments.train_csv,
                remedy="add images: a label needs at least two to be split; if train_csv assigns all rows to "
                "training, assign some to validation or set validation_csv"
                if name == VALIDATION
                else "add images, or correct the rows listed in rejected.csv",
            )


def _check_has_labels(labels: Sequence[str], arguments: ConvertArguments) -> None:
    if not labels:
        raise InvalidDataError(
            "no image has a label",
            where=arguments.train_csv or arguments.training_data_path,
            remedy="store labels in image/class/label of the records, or set labels_file"
            if arguments.training_data_path
            else "list each image's labels after its path: path,label,label,...",
        )


def _check_look_alikes(labels: Sequence[str], arguments: ConvertArguments) -> None:
    where = arguments.images or arguments.train_csv or arguments.training_data_path
    for first, second in check_look_alikes(labels, where)[:_MAX_LABELS_SHOWN]:
        log_event(
            "labels_differ_in_case",
            f"convert: the labels {first!r} and {second!r} differ only in upper and lower case; they are two "
            "classes: if they are the same, spell them alike",
            severity="WARNING",
            labels=[first, second],
        )
    for event, text, found in (
        (
            "labels_same_number",
            "are the same number, but different classes: if they are the same, spell them alike",
            find_equal_numbers(labels),
        ),
        (
            "labels_combined",
            "look like several labels each, but are one class each: if they are several, give each label its "
            "own column, and set multi_label=true",
            [] if arguments.multi_label else find_combined(labels),
        ),
        ("labels_missing", "stand for a missing value in many tables, but are classes", find_missing(labels)),
    ):
        if found:
            log_event(
                event,
                f"convert: the labels {', '.join(map(repr, found[:_MAX_LABELS_SHOWN]))} {text}",
                severity="WARNING",
                labels=found,
            )


def _describe_source(arguments: ConvertArguments) -> dict[str, str]:
    """Names the input without its folder, so that the manifest does not depend on the data's location."""
    names = ("images",) if arguments.images else ("train_csv", "validation_csv", "test_csv")
    given = {name: getattr(arguments, name) for name in (*names, "labels_file")}
    return {
        "form": "folder" if arguments.images else "csv",
        **{name: Path(value).absolute().name if value else "" for name, value in given.items()},
        **({} if arguments.label_from == AUTO else {"label_from": arguments.label_from}),
        **({"columns": arguments.columns} if arguments.columns else {}),
    }


def _log_plan(
    rows: Rows,
    numbers_of: dict[str, npt.NDArray[np.int64]],
    labels: Sequence[str],
    arguments: ConvertArguments,
) -> None:
    splits = ", ".join(f"{len(numbers):,} {name}" for name, numbers in numbers_of.items())
    rejected = rows.sort_rejections()
    log_event(
        "convert_planned",
        f"convert: {plural(len(rows), 'row')}: {splits}, {len(rejected):,} rejected; {_list_labels(labels)}",
    )
    if rejected and len(rejected) / len(rows) > arguments.max_rejected_fraction:
        log_event(
            "convert_will_fail",
            f"convert: rejected {len(rejected):,} of {plural(len(rows), 'row')} so far, more than "
            "max_rejected_fraction allows; the step will fail when every image has been checked and "
            f"rejected.csv is complete. First rejected row: {describe_rejection(rejected[0])}",
            severity="WARNING",
        )


def _warn_of_common_labels(manifest: Manifest) -> None:
    """Warns of labels that every image has: there is nothing to learn about them."""
    examples = sum(split.examples for split in manifest.splits.values())
    counts = np.sum([split.images_per_label for split in manifest.splits.values()], axis=0)
    common = [label for label, count in zip(manifest.labels, counts, strict=True) if count == examples]
    if common:
        names = ", ".join(map(repr, common[:_MAX_LABELS_SHOWN]))
        log_event(
            "label_of_every_image",
            f"convert: every image has the label {names}: check the folders or the columns",
            severity="WARNING",
            labels=common[:_MAX_LABELS_SHOWN],
        )


def _list_labels(labels: Sequence[str]) -> str:
    names = ", ".join(labels[:_MAX_LABELS_SHOWN])
    more = f" and {len(labels) - _MAX_LABELS_SHOWN:,} more" if len(labels) > _MAX_LABELS_SHOWN else ""
    return f"{plural(len(labels), 'label')}: {names}{more}"


def _log_summary(manifest: Manifest) -> None:
    counts = {name: manifest.made_by.get(name, 0) for name in ("rows", "written", "rejected", "dropped")}
    dropped = f" + {counts['dropped']:,} dropped" if counts["dropped"] else ""
    reencoded = len(manifest.made_by["reencoded"])
    splits = ", ".join(f"{split.examples:,} {name}" for name, split in manifest.splits.items())
    log_result(
        "convert",
        f"{plural(counts['rows'], 'row')} = {counts['written']:,} written + {counts['rejected']:,} rejected"
        f"{dropped}; {splits}; {reencoded:,} re-encoded; {_list_labels(manifest.labels)}",
        **counts,
        reencoded=reencoded,
    )
