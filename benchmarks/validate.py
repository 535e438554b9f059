"""Validating against a ``tf.data`` pipeline that parses and decodes the same shards.

``python -m benchmarks.validate``. Takes about three minutes on two cores. The 30,000 rows repeat 3,000
images, as data sets do whose rare classes are repeated: equal bytes are decoded once. The table shows
the 3,000 different images, too, of which each is decoded.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.corpus import write_corpus, write_rows
from benchmarks.measure import Measured, in_turns, median_seconds, peak, print_result, print_table, ratio, run

DIFFERENT, ROWS = 3_000, 30_000


def main() -> None:
    """Runs the benchmark."""
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        folder = Path(name)
        names = write_corpus(folder / "images")
        measured = {}
        for rows, repeats in ((DIFFERENT, 3), (ROWS, 3)):
            shards = folder / str(rows)
            write_rows(folder / "images" / f"{rows}.csv", names, rows)
            run(
                [
                    "-m",
                    "imgpipe.components.convert",
                    f"--train_csv={folder / 'images' / f'{rows}.csv'}",
                    f"--output_dir={shards}",
                ]
            )
            sides = {"ours": _ours(folder, shards), "tf.data": _tfdata(shards)}
            measured[rows] = in_turns(sides, repeats)
    table = [
        (
            f"{rows:,}",
            side,
            f"{median_seconds(runs):.2f}",
            f"{rows / median_seconds(runs):,.0f}",
            f"{peak(runs):.0f}",
        )
        for rows, sides_measured in measured.items()
        for side, runs in sides_measured.items()
    ]
    print_table(("rows", "side", "seconds", "images/s", "peak MB"), table)
    different = ratio(measured[DIFFERENT]["tf.data"], measured[DIFFERENT]["ours"])
    print(f"different images only: {different:.2f} times tf.data")
    print_result(
        vs_tfdata=ratio(measured[ROWS]["tf.data"], measured[ROWS]["ours"]),
        peak_mb=max(peak(sides_measured["ours"]) for sides_measured in measured.values()),
    )


def _ours(folder: Path, shards: Path) -> Callable[[], Measured]:
    return lambda: run(
        [
            "-m",
            "imgpipe.components.validate",
            f"--dataset={shards}",
            f"--report={folder / 'report.html'}",
            f"--summary={folder / 'summary.json'}",
        ]
    )


def _tfdata(shards: Path) -> Callable[[], Measured]:
    return lambda: run(["-m", "benchmarks.tfdata_reader", str(shards)])


if __name__ == "__main__":
    main()
