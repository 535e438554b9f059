"""Reads the shards with an Apache Beam runner (Dataflow, Flink, Spark), for data too large for one machine.

Beam's workers read whole shards with the same function as one machine. Their results, whose size does not
depend on the number of images, are files in a folder that all workers share; the process that started the
pipeline adds them in the order of the manifest, so the findings are the same. Equal images are found by a
shuffle of their SHA-256, so that no process holds those of all images.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from imgpipe.components.common.beam import RunnerArguments, beam_pipeline
from imgpipe.components.common.dataset import TRAIN, Manifest, shard_location
from imgpipe.components.common.errors import InternalError, MissingInputError, must_be_writable
from imgpipe.components.common.log import Progress
from imgpipe.components.common.parallel import map_in_order
from imgpipe.components.storage import PARALLEL_DOWNLOADS, LocalLocation, Location, parse_location, resolve
from imgpipe.components.validate.equal_images import (
    Contradiction,
    EqualImages,
    Image,
    ImageTable,
    Leak,
    compare_images,
    merge_equal_images,
)
from imgpipe.components.validate.reading import DatasetReader, Reading, empty_reading
from imgpipe.components.validate.record_checks import RecordChecker
from imgpipe.components.validate.shard_reading import (
    ShardReading,
    parse_shard_reading,
    read_shard,
    serialize_shard_reading,
    unreadable_shard,
)

_EQUAL_IMAGES = "equal-images.json"
# The runner itself assigns several shards to each worker machine.
_THREADS_PER_SHARD = 2
# Number, path and whether it is in the training split. Not the whole shard: all of them are part of the
# pipeline's description, which Dataflow limits to 10 MB.
_Task = tuple[int, str, bool]
_Settings = tuple[str, str, tuple[str, ...], int, bool]


def beam_reader(arguments: RunnerArguments, work_dir: str) -> DatasetReader:
    """Returns a function that reads a data set with a Beam runner.

    Args:
        arguments: With a runner.
        work_dir: A folder that all workers and this process share. The files in it are removed at the end.

    Raises:
        UnavailableError: if Apache Beam is not installed.
        InvalidArgumentError: if Beam does not know the runner, or the options do not parse.
    """
    run = beam_pipeline(arguments)

    def read(manifest: Manifest, folder: Path, max_image_pixels: int) -> Reading:
        # A folder of its own for each run, so that none reads the results of another one.
        work = parse_location(work_dir).absolute() / f"validate-{uuid.uuid4().hex}"
        with must_be_writable(f"to {work!r}"):
            work.check_writable()
        tasks = [
            (number, shard.path, name == TRAIN) for number, (name, shard) in enumerate(manifest.all_shards())
        ]
        settings = (str(folder), str(work), manifest.labels, max_image_pixels, manifest.multi_label)
        try:
            run(lambda pipeline: _add_transforms(pipeline, tasks, settings), "")
            return _merge(manifest, folder, work)
        finally:
            work.remove_folder()

    return read


def _add_transforms(pipeline: Any, tasks: list[_Task], settings: _Settings) -> None:
    import apache_beam as beam

    work = settings[1]
    digests_and_images = (
        pipeline
        | "Shards" >> beam.Create(tasks)
        # Without Reshuffle, a runner may assign all shards to one worker.
        | "Spread" >> beam.Reshuffle()
        | "ReadShard"
        >> beam.FlatMap(read_shard_to_file, settings).with_output_types(tuple[bytes, tuple[Any, ...]])
    )
    _ = (
        digests_and_images
        | "EqualImages" >> beam.GroupByKey()
        | "Compare" >> beam.Map(_compare)
        | "Merge" >> beam.CombineGlobally(merge_equal_images)
        | "Write" >> beam.Map(_write_equal_images, work)
    )


def read_shard_to_file(task: _Task, settings: _Settings) -> Iterator[tuple[bytes, tuple[Any, ...]]]:
    """Reads a shard on a worker, writes the result to the work folder, and yields each image's SHA-256.

    Args:
        task: The shard's number and path, and whether it is in the training split.
        settings: The folders of the manifest and of the results, the labels, the largest number of pixels,
            and whether records may have several labels.
    """
    number, path_in_manifest, in_train = task
    folder, work, labels, max_image_pixels, multi_label = settings
    images = ImageTable()
    images.begin_shard(number, in_train=in_train)
    try:
        with resolve(LocalLocation(folder), path_in_manifest).local_copy() as path:
            reading = read_shard(
                path,
                path_in_manifest,
                labels,
                _checker(max_image_pixels, multi_label),
                images,
                keep_samples=in_train,
                threads=_THREADS_PER_SHARD,
            )
    except MissingInputError as error:
        reading = unreadable_shard(error)
    result = _result_file(parse_location(work), number)
    with must_be_writable(f"to {work!r}"):
        result.write(serialize_shard_reading(reading))
    for digest, image in images.images():
        # Beam encodes a plain tuple in a quarter of the bytes.
        yield digest, tuple(image)


@cache
def _checker(max_image_pixels: int, multi_label: bool) -> RecordChecker:
    """Returns the checker of this process, so that images repeated in several shards are decoded once."""
    return RecordChecker(max_image_pixels, multi_label=multi_label)


def _compare(group: tuple[bytes, Iterable[tuple[Any, ...]]]) -> EqualImages:
    return compare_images(Image(*image) for image in group[1])


def _write_equal_images(equal_images: EqualImages, work: str) -> None:
    (parse_location(work) / _EQUAL_IMAGES).write(json.dumps(vars(equal_images)).encode())


def _merge(manifest: Manifest, folder: Path, work: Location) -> Reading:
    """Returns the data set as read, from the workers' results."""
    shards = manifest.all_shards()
    reading = empty_reading(manifest)
    progress = Progress("validate", len(shards), "shards")
    results = map_in_order(lambda number: _read_result(work, number), range(len(shards)), PARALLEL_DOWNLOADS)
    for (name, shard), result in zip(shards, results, strict=True):
        reading.add(name, shard, shard_location(folder, shard), result)
        progress.add(1)
    if shards:
        reading.equal_images = _parse_equal_images(_read_file(work / _EQUAL_IMAGES))
    return reading


def _read_result(work: Location, number: int) -> ShardReading:
    return parse_shard_reading(_read_file(_result_file(work, number)))


def _result_file(work: Location, number: int) -> Location:
    return work / f"shard-{number:07d}.json"


def _read_file(location: Location) -> bytes:
    try:
        return location.read()
    except (OSError, MissingInputError):
        raise InternalError(
            f"the runner ended without an error, but there is no file {location!r}",
            remedy="use a work_dir that all of the runner's workers share",
        ) from None


def _parse_equal_images(content: bytes) -> EqualImages:
    fields = json.loads(content)
    leaks = tuple(Leak(*map(_parse_image, images)) for images in fields["leaks"])
    contradictions = tuple(
        Contradiction(_parse_image(first), tuple(map(_parse_image, named)), size)
        for first, named, size in fields["contradictions"]
    )
    return EqualImages(leaks, fields["all_leaks"], contradictions, fields["all_contradictions"])


def _parse_image(values: list[Any]) -> Image:
    shard, record, offset, in_train, labels = values
    return Image(shard, record, offset, in_train, tuple(labels))
