"""Converting and validating with Beam's multi-process runner, with 1, 2 and 4 workers.

``python -m benchmarks.beam``. Takes about six minutes on two cores; more workers than cores show the skew and
the memory, not the speed. ``--rows`` is the number of rows that repeat the 3,000 images.

The skew is what the busiest worker has read, in bytes, divided by the mean; what each reads at its start, as
measured with ten images, is subtracted. ``same_bytes`` is 1 if all shards, reports and summaries equal those
without Beam.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.corpus import write_corpus, write_rows
from benchmarks.measure import WorkersMeasured, print_result, print_table, run, run_with_workers
from benchmarks.needs import check_needs

WORKERS = (1, 2, 4)
ROWS, FEW = 30_000, 10
_WORKER_MODULE = "sdk_worker_main"
# Enough shards for each worker.
_SHARD_MEGABYTES = 16
# A data set of ten images has errors: the batch is larger.
_BATCH = 1


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    rows = parser.parse_args().rows
    check_needs(minutes=6, disk_gb=2 + 4 * rows * 50e3 / 1e9, packages=["apache_beam"])
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        _benchmark(Path(name), rows)


def _benchmark(folder: Path, rows: int) -> None:
    names = write_corpus(folder / "images")
    for count in (FEW, rows):
        write_rows(folder / "images" / f"{count}.csv", names, count)
        for command in _commands(folder, count, 0).values():
            run(command)
    table: list[tuple[str, ...]] = []
    results: dict[str, float] = {}
    same = True
    for workers in WORKERS:
        few = {
            step: run_with_workers(command, _WORKER_MODULE)
            for step, command in _commands(folder, FEW, workers).items()
        }
        for step, command in _commands(folder, rows, workers).items():
            measured = run_with_workers(command, _WORKER_MODULE)
            seconds = max(measured.seconds - few[step].seconds, 1e-9)
            skew = _skew(measured, few[step])
            table.append(
                (
                    step,
                    str(workers),
                    f"{measured.seconds:.1f}",
                    f"{(rows - FEW) / seconds:,.0f}",
                    f"{measured.largest_mb:.0f}",
                    f"{skew:.2f}",
                )
            )
            results |= {
                f"{step}_{workers}_images_per_second": (rows - FEW) / seconds,
                f"{step}_{workers}_worker_mb": measured.largest_mb,
                f"{step}_{workers}_skew": skew,
            }
        same &= _files(folder, rows, workers) == _files(folder, rows, 0)
    print_table(
        ("step", "workers", "seconds", "images/s after the start", "MB of the largest worker", "skew"), table
    )
    print_result(**results, same_bytes=same)


def _commands(folder: Path, rows: int, workers: int) -> dict[str, list[str]]:
    """Returns the commands by step; no workers = without Beam."""
    output = folder / f"{rows}-{workers}"
    options = f"--direct_running_mode=multi_processing --direct_num_workers={workers}"
    runner = ["--runner=DirectRunner", f"--runner_options={options}"] if workers else []
    data = [f"--train_csv={folder}/images/{rows}.csv", f"--output_dir={output}"]
    files = [f"--report={output}.html", f"--summary={output}.json", f"--train_batch_size={_BATCH}"]
    return {
        "convert": [
            *("-m", "imgpipe.components.convert", *data, *runner),
            *(f"--shard_megabytes={_SHARD_MEGABYTES}", "--group_near_duplicates=false"),
        ],
        "validate": [
            *("-m", "imgpipe.components.validate", f"--dataset={output}", *files, *runner),
            *([f"--work_dir={folder}/work"] if workers else []),
        ],
    }


def _files(folder: Path, rows: int, workers: int) -> list[bytes]:
    """Returns the manifest, which has the SHA-256 of all shards, the report and the summary."""
    output = folder / f"{rows}-{workers}"
    paths = (output / "manifest.json", Path(f"{output}.html"), Path(f"{output}.json"))
    return [path.read_bytes() for path in paths]


def _skew(measured: WorkersMeasured, few: WorkersMeasured) -> float:
    at_start = sum(few.read_bytes) / len(few.read_bytes)
    read = [max(0.0, count - at_start) for count in measured.read_bytes]
    return max(read) * len(read) / max(sum(read), 1.0)


if __name__ == "__main__":
    main()
