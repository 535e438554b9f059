"""Validating, compared with a ``tf.data`` pipeline that parses and decodes the same shards.

``python -m benchmarks.validate``. Takes about three minutes on two cores. The 30,000 rows repeat 3,000
images, like data sets with repeated rare classes: equal images are decoded once. The table also has the
3,000 distinct images, each of which is decoded.
"""

import tempfile
from functools import partial
from pathlib import Path

from benchmarks.corpus import write_corpus, write_rows
from benchmarks.measure import in_turns, peak, print_result, print_runs, ratio, run
from benchmarks.needs import check_needs

DISTINCT, ROWS = 3_000, 30_000


def main() -> None:
    """Runs the benchmark."""
    check_needs(minutes=3, disk_gb=2)
    with tempfile.TemporaryDirectory(prefix="imgpipe-benchmark-") as name:
        folder = Path(name)
        names = write_corpus(folder / "images")
        measured = {}
        for rows in (DISTINCT, ROWS):
            csv, shards = folder / "images" / f"{rows}.csv", folder / str(rows)
            write_rows(csv, names, rows)
            run(["-m", "imgpipe.components.convert", f"--train_csv={csv}", f"--output_dir={shards}"])
            report, summary = folder / "report.html", folder / "summary.json"
            flags = [f"--dataset={shards}", f"--report={report}", f"--summary={summary}"]
            commands = {
                "ours": ["-m", "imgpipe.components.validate", *flags],
                "tf.data": ["-m", "benchmarks.tfdata_reader", str(shards)],
            }
            measured[rows] = in_turns({side: partial(run, command) for side, command in commands.items()}, 3)
    print_runs(measured)
    vs_tfdata = {rows: ratio(sides["tf.data"], sides["ours"]) for rows, sides in measured.items()}
    print(f"distinct images only: {vs_tfdata[DISTINCT]:.2f} times tf.data")
    print_result(
        vs_tfdata=vs_tfdata[ROWS],
        peak_mb=max(peak(sides["ours"]) for sides in measured.values()),
    )


if __name__ == "__main__":
    main()
