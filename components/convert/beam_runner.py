"""Writes shards with an Apache Beam runner (Dataflow, Flink, Spark), for data too large for one machine.

The process that starts the conversion plans and publishes it; Beam's workers only write shards, each whole
shard with the same functions as on one machine, so the bytes are the same. A shard's rows and its result
are files in the work folder, which all workers must be able to access; a failed pipeline resumes from them.
"""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from imgpipe.components.common.beam import RunnerArguments, beam_pipeline
from imgpipe.components.common.errors import InternalError, must_be_writable
from imgpipe.components.common.parallel import map_in_order, run_in_parallel
from imgpipe.components.convert.image_reader import ImageReader
from imgpipe.components.convert.output_folder import WORK_FOLDER
from imgpipe.components.convert.row_table import Row
from imgpipe.components.convert.shards import (
    ImageRules,
    ShardPlan,
    ShardResult,
    find_finished_shard,
    write_shards,
)
from imgpipe.components.storage import PARALLEL_DOWNLOADS, LocalLocation, Location, parse_location, resolve

_ROWS_SUFFIX = ".rows"
# The runner itself assigns several shards to each worker machine.
_THREADS_PER_SHARD = 2


def beam_writer(
    arguments: RunnerArguments,
) -> Callable[[Sequence[ShardPlan], ImageRules, Location, Callable[[int], None]], Sequence[ShardResult]]:
    """Returns a ``ShardWriter`` that uses a Beam runner.

    Raises:
        UnavailableError: if Apache Beam is not installed.
        InvalidArgumentError: if Beam does not know the runner, or the options do not parse.
    """
    run = beam_pipeline(arguments)
    import apache_beam

    def write(
        plans: Sequence[ShardPlan], rules: ImageRules, folder: Location, on_images: Callable[[int], None]
    ) -> Sequence[ShardResult]:
        with must_be_writable(f"to {folder!r}"):
            run_in_parallel(
                lambda plan: (folder / WORK_FOLDER / f"{plan.name}{_ROWS_SUFFIX}").write(_format_rows(plan)),
                plans,
                PARALLEL_DOWNLOADS,
            )
        names = [plan.name for plan in plans]
        location = str(folder)
        run(
            lambda pipeline: (
                pipeline
                | "ShardNames" >> apache_beam.Create(names)
                # Without Reshuffle, a runner may assign all shards to one worker.
                | "Spread" >> apache_beam.Reshuffle()
                | "WriteShard" >> apache_beam.Map(write_planned_shard, location, asdict(rules))
            ),
            "finished shards are kept",
        )
        results, files = [], folder.contents()
        found = map_in_order(
            lambda plan: find_finished_shard(folder, files, plan, rules), plans, PARALLEL_DOWNLOADS
        )
        for plan, result in zip(plans, found, strict=True):
            if result is None:
                raise InternalError(
                    f"the runner ended without an error, but there is no shard {plan.name!r}",
                    where=str(folder / WORK_FOLDER),
                    remedy="use an output folder that all of the runner's workers share",
                )
            results.append(result)
            on_images(len(plan.rows))
        return results

    return write


def write_planned_shard(name: str, location: str, rules: dict[str, Any]) -> str:
    """Writes one shard on a worker and returns its name.

    Args:
        name: The shard's name.
        location: The output folder; its work folder contains the shard's rows.
        rules: The fields of ``ImageRules``.
    """
    folder = parse_location(location)
    lines = (folder / WORK_FOLDER / f"{name}{_ROWS_SUFFIX}").read().splitlines()
    rows = [_parse_row(line) for line in lines]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        write_shards(
            [ShardPlan(name, rows)],
            ImageRules(**rules),
            folder,
            threads=_THREADS_PER_SHARD,
            images=ImageReader(0),
        )
    return name


def _format_rows(plan: ShardPlan) -> bytes:
    # ASCII preserves file names that are not UTF-8 and escapes every line separator.
    rows = ({**asdict(row), "location": str(row.location)} for row in plan.rows)
    return "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows).encode("ascii")


def _parse_row(line: bytes) -> Row:
    fields = json.loads(line)
    # Not parse_location(), which would expand ~.
    return Row(**{**fields, "location": resolve(LocalLocation(""), fields["location"])})
